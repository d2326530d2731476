"""Commands in namespaces of their own: what they mount and what they start is gone with the first of them."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from tempfile import mkdtemp

DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


def lacking() -> str | None:
    """What keeps this machine from them, if anything does."""
    if os.geteuid() != 0:
        return "this user is not root"
    if shutil.which("unshare") is None or shutil.which("setpriv") is None:
        return "there is no unshare or no setpriv"
    folder = Path(mkdtemp(prefix="scorewatch-images-"))
    try:
        lower, upper, work, root = (folder / name for name in ("lower", "upper", "work", "root"))
        for each in (lower, upper, work, root):
            each.mkdir()
        for name in ("proc", "sys", "dev"):
            (lower / name).mkdir()
        probe = in_namespaces([overlaid([lower], upper, work, root), *machine(root)])
        done = subprocess.run(probe, capture_output=True, text=True, timeout=60, check=False)
        return None if done.returncode == 0 else done.stderr.strip()
    finally:
        shutil.rmtree(folder)


def in_namespaces(lines: Iterable[str]) -> list[str]:
    """A command that runs lines of shell as the first process of namespaces; whatever they start ends with it, and it
    ends with the process that starts it, should that be killed.
    """
    program = "\n".join(["set -eu", *lines])
    new = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
    return ["setpriv", "--pdeathsig=KILL", *new, "sh", "-c", program]


def overlaid(layers: Iterable[Path], upper: Path, work: Path, root: Path) -> str:
    """Shell: layers, the uppermost first, are at a place, and what is written there goes into another folder."""
    options = f"lowerdir={':'.join(map(str, layers))},upperdir={upper},workdir={work}"
    return shell("mount", "-t", "overlay", "overlay", "-o", options, root)


def machine(root: Path) -> list[str]:
    """Shell: what a container engine mounts into every container."""
    lines = [
        shell("mount", "-t", "proc", "proc", root / "proc"),
        shell("mount", "--bind", "-o", "ro", "/sys", root / "sys"),
        shell("mount", "-t", "tmpfs", "-o", "mode=755,size=64k", "dev", root / "dev"),
        shell("mkdir", root / "dev/shm"),
        shell("mount", "-t", "tmpfs", "-o", "mode=1777,size=64m", "shm", root / "dev/shm"),
        shell("ln", "-s", "/proc/self/fd", root / "dev/fd"),
    ]
    for name in DEVICES:
        lines += [shell("touch", root / f"dev/{name}"), shell("mount", "--bind", f"/dev/{name}", root / f"dev/{name}")]
    return lines


def bound(source: Path | str, target: Path | str, *, read_only: bool = True) -> list[str]:
    """Shell: a file or a folder is at another place too."""
    source, target = Path(source), Path(target)
    empty = shell("mkdir", "-p", target) if source.is_dir() else f"[ -e {target} ] || touch {target}"
    option = ["-o", "ro"] if read_only else []
    return [shell("mkdir", "-p", target.parent), empty, shell("mount", "--bind", *option, source, target)]


def shell(*words: object) -> str:
    """A command as a line of shell."""
    return shlex.join(map(str, words))

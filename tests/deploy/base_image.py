"""A folder with what the images' base has, made of what is on this machine: Debian's packages that every installation
has, Python, and the libraries that Python is linked with. No compiler, no tool of this machine's, none of its packages.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
PYTHON = (3, 11)
# Beside what is essential the official image of Python has these from Debian.
_NAMED = ("ca-certificates", "netbase", "tzdata")
_OF_DEBIANS_PYTHON = ("python3", "python3-venv")
_LEFT_OUT = re.compile(r"/usr/share/(doc|man|locale|info|lintian|bash-completion)/")
_MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")


def lacking() -> str | None:
    """What keeps this machine from it, if anything does."""
    if shutil.which("dpkg-query") is None:
        return "there is no dpkg-query"
    if sys.version_info[:2] != PYTHON:
        return "this is another Python than the images have"
    return None


def make(folder: Path) -> None:
    """Fill the folder, as root of a system that nothing has happened to yet."""
    for name, mode in (("home", 0o755), ("opt", 0o755), ("root", 0o700), ("tmp", 0o1777), ("usr/local", 0o755)):
        (folder / name).mkdir(parents=True)
        (folder / name).chmod(mode)
    for name in ("proc", "sys", "dev", "run"):
        (folder / name).mkdir()
    for name in _MERGED:
        if Path(f"/{name}").is_symlink():
            (folder / f"usr/{name}").mkdir()
            (folder / name).symlink_to(f"usr/{name}")
    own = Path(sys.base_prefix) != Path("/usr")
    packages = _closure([*_essential(), *_NAMED, *(_owners(_libraries()) if own else _OF_DEBIANS_PYTHON)])
    _copy_files(_files(packages), folder)
    if own:
        _copy_python(folder / "usr" / "local")
    # What the packages make when they are installed.
    for name in ("passwd", "group"):
        shutil.copyfile(f"/usr/share/base-passwd/{name}.master", folder / "etc" / name)
    authorities = sorted((folder / "usr/share/ca-certificates").rglob("*.crt"))
    bundle = folder / "etc/ssl/certs/ca-certificates.crt"
    bundle.write_bytes(b"".join(each.read_bytes() for each in authorities))
    subprocess.run(["chroot", folder, "ldconfig"], check=True, env={"PATH": PATH}, timeout=60)


def _copy_python(prefix: Path) -> None:
    """Without packages, tests and byte code: the official image has none of the standard library's."""
    source = Path(sys.base_prefix)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    ignore = shutil.ignore_patterns("__pycache__", "site-packages", "test", "tests", "idle_test", "config-*", "*.a")
    shutil.copytree(source / "lib" / version, prefix / "lib" / version, ignore=ignore)
    (prefix / "lib" / version / "site-packages").mkdir()
    for library in (source / "lib").glob("libpython*.so*"):
        shutil.copy2(library, prefix / "lib", follow_symlinks=False)
    (prefix / "bin").mkdir()
    shutil.copy2(Path(sys.base_prefix) / "bin" / version, prefix / "bin")
    for name in ("python3", "python"):
        (prefix / "bin" / name).symlink_to(version)


def _libraries() -> set[str]:
    """Shared libraries of this machine that Python's own modules are linked with."""
    modules = [str(each) for each in Path(sys.base_prefix).glob("lib/python3.*/lib-dynload/*.so")]
    said = _output("ldd", str(Path(sys.executable).resolve()), *(each for each in modules if "tkinter" not in each))
    found = {str(Path(each).resolve()) for each in re.findall(r"=> (/\S+) ", said)}
    return {each for each in found if not each.startswith(f"{Path(sys.base_prefix).resolve()}/")}


def _essential() -> list[str]:
    lines = _output("dpkg-query", "--show", "--showformat", "${Package} ${Priority} ${Essential}\n").splitlines()
    return [name for name, priority, essential in map(str.split, lines) if "yes" in essential or priority == "required"]


def _owners(files: Iterable[str]) -> list[str]:
    """The packages that these files are of; the package may know them by the name from before /usr was merged."""
    patterns = [f"*{each.removeprefix('/usr')}" for each in files]
    return re.findall(r"^([^:, ]+)(?::\w+)?: ", _output("dpkg-query", "--search", *patterns), flags=re.MULTILINE)


def _closure(names: Iterable[str]) -> set[str]:
    """The packages and everything that they depend on, as far as it is installed."""
    shown = _output("dpkg-query", "--show", "--showformat", "${Package}\t${Pre-Depends}, ${Depends}\t${Provides}\n")
    rows = [line.split("\t") for line in shown.splitlines()]
    needs = {name: set(re.findall(r"(?:^|[,|])\s*([a-z0-9][a-z0-9.+-]+)", depends)) for name, depends, _ in rows}
    provided = {each: name for name, _, provides in rows for each in re.findall(r"[a-z0-9][a-z0-9.+-]+", provides)}
    found, waiting = set[str](), list(names)
    while waiting:
        name = waiting.pop()
        name = name if name in needs else provided.get(name, name)
        if name in needs and name not in found:
            found.add(name)
            waiting.extend(needs[name])
    return found


def _files(packages: Iterable[str]) -> set[Path]:
    listed = set(_output("dpkg-query", "--listfiles", *sorted(packages)).splitlines())
    return {Path(each) for each in listed if each.startswith("/") and not _LEFT_OUT.match(f"{each}/")}


def _copy_files(files: set[Path], folder: Path) -> None:
    """Folders of the packages first, each file at where its folder really is."""
    for each in sorted(files):
        if each.is_dir() and not each.is_symlink():
            (folder / each.relative_to("/")).mkdir(parents=True, exist_ok=True)
            continue
        target = folder / each.relative_to("/")
        if os.path.lexists(each) and not os.path.lexists(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(each, target, follow_symlinks=False)


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=_ENVIRON).stdout


_ENVIRON = {"PATH": PATH, "LC_ALL": "C"}

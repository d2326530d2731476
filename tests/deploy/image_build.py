"""Builds an image as its Dockerfile says, without a container engine: its instructions, one after the other, in a root
of their own. That takes root, mount and PID namespaces, and overlays; a process sees nothing of this machine but what
the base has, and what it mounts is gone with it.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from configparser import ConfigParser
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp

import pytest

from tests.deploy import base_image, namespaces
from tests.deploy.dockerfiles import REPOSITORY, context, flags, mounts, stages
from tests.deploy.namespaces import bound, in_namespaces, machine, overlaid, shell

LIMIT_S = 900


@dataclass
class Image:
    """Folders that lie one over the other, the uppermost first, and how a process in them starts."""

    layers: list[Path]
    environ: dict[str, str] = field(default_factory=lambda: {"PATH": base_image.PATH, "HOME": "/root"})
    folder: str = "/"
    user: str = "0:0"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)

    def path(self, name: str) -> Path:
        """Where the uppermost layer that has this file keeps it."""
        return next(found for layer in self.layers if os.path.lexists(found := layer / name.lstrip("/")))


class Builder:
    """Builds images below a folder of its own, which is removed at the end."""

    def __init__(self) -> None:
        if why := namespaces.lacking() or base_image.lacking():
            pytest.skip(f"without a container engine images are built on Debian, by root, in namespaces: {why}")
        # Not below pytest's own folder, which nobody but this user can enter.
        self.folder = Path(mkdtemp(prefix="scorewatch-images-"))
        self.folder.chmod(0o755)

    def build(self, name: str) -> Image:
        """The image of a Dockerfile's last stage. A command that fails fails the test."""
        base, context_folder = self._new("base"), self._new("context")
        base_image.make(base)
        for each in context():
            (context_folder / each).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / each, context_folder / each)
        made: dict[str, Image] = {"${BASE}": Image([base])}
        for number, [(_, start), *rest] in enumerate(stages(name)):
            parent, _, called = start.partition(" AS ")
            stage = _Stage(self, made[parent], context_folder, made)
            for word, arguments in rest:
                stage.carry_out(word, arguments)
            made[called or str(number)] = stage.image
        return stage.image

    def remove(self) -> None:
        # A hundred thousand files: Python takes several times as long.
        subprocess.run(["rm", "-rf", self.folder], check=True, timeout=LIMIT_S)

    def _new(self, name: str) -> Path:
        folder = Path(mkdtemp(prefix=f"{name}-", dir=self.folder))
        folder.chmod(0o755)
        return folder


class _Stage:
    """What comes of the instructions that follow one FROM."""

    def __init__(self, builder: Builder, parent: Image, context_folder: Path, others: dict[str, Image]) -> None:
        self._upper, self._work, self._root = (builder._new(name) for name in ("layer", "work", "root"))
        self._pip = builder._new("pip")
        self._lower, self._context, self._others = parent.layers, context_folder, others
        self.image = Image([self._upper, *parent.layers], dict(parent.environ), parent.folder, parent.user)

    def carry_out(self, word: str, rest: str) -> None:
        known: dict[str, Callable[[str], None]] = {
            "ARG": lambda _: None,
            "LABEL": lambda _: None,
            "STOPSIGNAL": lambda _: None,
            "CMD": lambda rest: self.image.command.extend(json.loads(rest)),
            "COPY": self._copy,
            "ENTRYPOINT": lambda rest: self.image.entrypoint.extend(json.loads(rest)),
            "ENV": self._env,
            "RUN": self._run,
            "USER": self._user,
            "WORKDIR": self._workdir,
        }
        known[word](rest)

    def _env(self, rest: str) -> None:
        assert "$" not in rest, "no variable is filled in here"
        self.image.environ |= dict(each.split("=", 1) for each in shlex.split(rest))

    def _user(self, rest: str) -> None:
        self.image.user = rest

    def _workdir(self, rest: str) -> None:
        self.image.folder = rest
        self._call([shell("mkdir", "-p", f"{self._root}{rest}")])

    def _copy(self, rest: str) -> None:
        options, arguments = flags(rest)
        *sources, target = arguments.split()
        there = self._root / os.path.join(self.image.folder, target).lstrip("/")  # noqa: PTH118 - keeps the slash
        if "from" in options:
            [source] = sources
            _link(self._others[options["from"]].layers, source, self._upper / there.relative_to(self._root))
            return
        lines = []
        for source in sources:
            here = self._context / source
            into = there / Path(source).name if target.endswith("/") else there
            lines += [
                shell("mkdir", "-p", into.parent),
                *_copied(here, into),
                *([shell("chmod", options["chmod"], into)] if "chmod" in options else []),
            ]
        self._call(lines)

    def _run(self, rest: str) -> None:
        _, command = flags(rest)
        lines = [*machine(self._root), *_pip_at_hand(self._root, self._pip, mounts(rest))]
        environ = [f"{name}={value}" for name, value in self.image.environ.items()]
        program = ["chroot", self._root, "/bin/sh", "-c", f"cd {self.image.folder} && {command}"]
        self._call([*lines, shell("exec", "env", "-i", *environ, *program)])

    def _call(self, lines: Iterable[str]) -> None:
        mount = overlaid(self._lower, self._upper, self._work, self._root)
        done = subprocess.run(
            in_namespaces(["umask 022", mount, *lines]), capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        assert done.returncode == 0, f"{lines}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def _copied(here: Path, there: Path) -> list[str]:
    """Shell: a file is at a place, a folder's content in a folder; all of it is root's."""
    if here.is_dir():
        return [shell("mkdir", "-p", there), shell("cp", "-Rp", "--no-preserve=ownership", f"{here}/.", there)]
    return [shell("cp", "-p", "--no-preserve=ownership", here, there)]


def _link(layers: Iterable[Path], source: str, target: Path) -> None:
    """What another stage has at a place is in a layer too, without a second copy of a gigabyte.

    In a layer of an overlay a file that was removed is a device, and a folder that was made anew hides what was there.
    """
    for layer in reversed(list(layers)):
        _merge(layer / source.lstrip("/"), target)


def _merge(here: Path, there: Path) -> None:
    if here.is_dir() and not here.is_symlink():
        if _is_opaque(here) or not there.is_dir() or there.is_symlink():
            _remove(there)
        there.mkdir(parents=True, exist_ok=True)
        shutil.copymode(here, there)
        for each in here.iterdir():
            _merge(each, there / each.name)
    elif os.path.lexists(here):
        _remove(there)
        if not here.is_char_device():
            os.link(here, there, follow_symlinks=False)


def _remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def _is_opaque(folder: Path) -> bool:
    try:
        return os.getxattr(folder, "trusted.overlay.opaque") == b"y"
    except OSError:
        return False


def _pip_at_hand(root: Path, folder: Path, asked: list[dict[str, str]]) -> list[str]:
    """Shell: the network's names, and pip's configuration and cache where a RUN asks for them by a mount."""
    lines = [line for name in ("resolv.conf", "hosts") for line in bound(f"/etc/{name}", root / "etc" / name)]
    for each in asked:
        target = root / each["target"].lstrip("/")
        if each["type"] == "cache":
            cache = Path(_pip("cache", "dir").strip())
            cache.mkdir(parents=True, exist_ok=True)
            lines += bound(cache, target, read_only=False)
        else:
            assert (each["type"], each["id"]) == ("secret", "pip.conf")
            config, files = _pip_configuration()
            with (folder / "pip.conf").open("w", encoding="utf-8") as file:
                config.write(file)
            lines += bound(folder / "pip.conf", target)
            lines += [line for file in files for line in bound(file, root / file.lstrip("/"))]
    return lines


def _pip_configuration() -> tuple[ConfigParser, list[str]]:
    """This machine's, as one file, and the files and folders that it names."""
    found = ConfigParser(interpolation=None)
    found["global"] = {}
    for section in ("global", "install", ":env:"):
        for name, text in re.findall(rf"^{section}\.\.?(\S+?)=(.*)$", _pip("config", "list"), flags=re.MULTILINE):
            into = "global" if section == ":env:" else section
            if not found.has_section(into):
                found.add_section(into)
            found[into][name.lstrip(".")] = str(ast.literal_eval(text))
    words = [
        word.removeprefix("file://")
        for each in found.sections()
        for text in found[each].values()
        for word in text.split()
    ]
    named = [word for word in words if word.startswith("/") and Path(word).exists()]
    # An index in a folder has its files beside it.
    return found, [str(Path(word).parent) if Path(word).name == "simple" else word for word in named]


def _pip(*arguments: str) -> str:
    command = [sys.executable, "-m", "pip", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout

"""What has to hold of every image that was built: what is installed in it, and whom its files belong to."""

from __future__ import annotations

import importlib.metadata
import os
import re
import stat
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from packaging.utils import canonicalize_name

from tests.deploy.dockerfiles import REPOSITORY
from tests.deploy.image_build import Image

ENVIRONMENT = "/opt/scorewatch"
_NOT_COMPILED = re.compile(r"/(tests?|idle_test)/")
_BUILDING = {"pip", "setuptools", "wheel", "build", "cython", "ninja", "meson"}
# Where a build works, and what it leaves there.
_OF_THE_BUILD = ("build", "code", "root/.cache", "etc/pip.conf", "var/cache/apt", "var/lib/apt/lists")


def pins(constraints: str) -> dict[str, str]:
    """Versions by name, of a file of constraints."""
    lines = (REPOSITORY / constraints).read_text(encoding="utf-8").splitlines()
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}


def distributions(image: Image) -> dict[str, str]:
    """What is installed in the image's environment: versions by name, each of them once."""
    folders = [str(each) for each in _own(image, ENVIRONMENT).glob("lib/python3.*/site-packages")]
    found = [(canonicalize_name(each.name), each.version) for each in importlib.metadata.distributions(path=folders)]
    assert len(found) == len(dict(found)), "a package is there twice"
    return dict(found)


def has_only_pinned_distributions(image: Image, constraints: str) -> None:
    found, pinned = distributions(image), pins(constraints)
    own = found.pop("scorewatch")

    assert own == importlib.metadata.version("scorewatch")
    assert {name: version for name, version in found.items() if pinned.get(name) != version} == {}


def has_nothing_that_builds_and_nothing_left_of_the_build(image: Image) -> None:
    assert _BUILDING & set(distributions(image)) == set()
    assert list(_own(image, ENVIRONMENT).glob("bin/pip*")) == []
    assert [each for each in _OF_THE_BUILD if (image.layers[0] / each).exists()] == []
    for layer in image.layers:
        assert [name for name in ("cc", "gcc", "g++", "ld", "make") if os.path.lexists(layer / "usr/bin" / name)] == []
        assert list((layer / "tmp").glob("*")) == []


def has_byte_code_that_is_never_checked(image: Image) -> None:
    """So that a process which can write none does not compile anything when it starts."""
    base = image.layers[-1]
    [library] = {each.parent for each in base.glob("usr/*/python3.*/os.py")} | {
        each.parent for each in base.glob("usr/local/lib/python3.*/os.py")
    }
    standard = [source.relative_to(base) for source in _sources(library)]
    ours = [source.relative_to(image.layers[0]) for source in _sources(_own(image, ENVIRONMENT))]

    assert len(standard) > 400
    assert len(ours) > 5_000
    assert [str(each) for each in (*standard, *ours) if not _is_never_checked(image.layers[0] / each)] == []


def _sources(folder: Path) -> Iterator[Path]:
    for place, _, names in os.walk(folder):
        if not _NOT_COMPILED.search(f"{place}/"):
            yield from (Path(place, name) for name in names if name.endswith(".py"))


def _is_never_checked(source: Path) -> bool:
    """By PEP 552: the flags say that it goes by a hash, and that nobody looks whether the source still has it."""
    try:
        with open(f"{source.parent}/__pycache__/{source.stem}.{sys.implementation.cache_tag}.pyc", "rb") as file:  # noqa: PTH123 - 20,000 of them
            return struct.unpack("<I", file.read(8)[4:])[0] == 1
    except FileNotFoundError:
        return False


def belongs_to_root(image: Image, *, but: tuple[str, ...] = ()) -> None:
    """Everybody can read it, and write to the named folders only."""
    top, wrong = str(image.layers[0]), []
    for folder, _, names in os.walk(top):
        inside = f"{folder.removeprefix(top)}/"
        if inside.startswith(tuple(f"{each}/" for each in (*but, "/etc"))):
            continue
        for path in (folder, *(f"{folder}/{name}" for name in names)):
            found = os.lstat(path)
            readable = stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(found.st_mode) else 0)
            allowed = not found.st_mode & 0o022 and found.st_mode & readable == readable
            if (found.st_uid, found.st_gid) != (0, 0) or not (allowed or stat.S_ISLNK(found.st_mode)):
                wrong.append((path.removeprefix(top), oct(found.st_mode), found.st_uid))

    assert wrong == []


def _own(image: Image, place: str) -> Path:
    """A folder of what the last stage added to the base."""
    return image.layers[0] / place.lstrip("/")

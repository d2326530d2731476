"""What the Dockerfiles say, and what .dockerignore lets a build see."""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
IMAGES = ("monitoring", "airflow", "stand-ins")

Instruction = tuple[str, str]


def instructions(image: str) -> list[Instruction]:
    """The instructions of an image's Dockerfile, each with its arguments in one line."""
    text = (REPOSITORY / "deploy" / "docker" / image / "Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    parts = [line.strip().partition(" ") for line in lines if line.strip()]
    return [(word, re.sub(r"\s+", " ", rest).strip()) for word, _, rest in parts]


def stages(image: str) -> list[list[Instruction]]:
    """The instructions from each FROM to the next one."""
    found: list[list[Instruction]] = []
    for word, rest in instructions(image):
        if word == "FROM":
            found.append([])
        if found:
            found[-1].append((word, rest))
    return found


def flags(rest: str) -> tuple[dict[str, str], str]:
    """The options in front of an instruction's arguments, of which there is one of each name, and the arguments."""
    found = re.match(r"(?:--[a-z]+=\S+\s+)*", rest)
    assert found
    options = [option.removeprefix("--").partition("=") for option in found[0].split()]
    return {name: value for name, _, value in options}, rest[found.end() :]


def mounts(rest: str) -> list[dict[str, str]]:
    """What a RUN mounts: for each `--mount=type=secret,id=…` its parts."""
    return [dict(part.split("=", 1) for part in each.split(",")) for each in re.findall(r"--mount=(\S+)", rest)]


def let_in(path: str) -> bool:
    """Whether .dockerignore lets a path into the build: the last of its lines that matches decides."""
    found = True
    for pattern, wanted in _patterns():
        parts = Path(path).parts
        heads = ["/".join(parts[: number + 1]) for number in range(len(parts))]
        if any(_matches(head, pattern) for head in heads):
            found = wanted
    return found


def context() -> list[str]:
    """The files that a build sees, by their names from the top of the repository."""
    found = []
    tops = {pattern.partition("/")[0] for pattern, wanted in _patterns() if wanted}
    for top in sorted(tops):
        place = REPOSITORY / top
        files = [place] if place.is_file() else sorted(each for each in place.rglob("*") if each.is_file())
        names = [each.relative_to(REPOSITORY).as_posix() for each in files]
        found += [name for name in names if let_in(name)]
    return found


def _patterns() -> list[tuple[str, bool]]:
    """The lines, and whether what they match is let in."""
    lines = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    written = [line for line in lines if line and not line.startswith("#")]
    return [(line.removeprefix("!").rstrip("/"), line.startswith("!")) for line in written]


def _matches(path: str, pattern: str) -> bool:
    if pattern.startswith("**/"):
        return fnmatch.fnmatchcase(path.rpartition("/")[2], pattern[3:])
    return path.count("/") == pattern.count("/") and fnmatch.fnmatchcase(path, pattern)

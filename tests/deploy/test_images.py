"""What the Dockerfiles say; building them takes a container engine."""

from __future__ import annotations

import fnmatch
import re
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
IMAGES = ("monitoring", "airflow", "stand-ins")
USERS = {"monitoring": "1000:1000", "airflow": "50000:0", "stand-ins": "1000:1000"}

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


@pytest.mark.parametrize("image", IMAGES)
def test_the_base_can_be_another_one_and_every_stage_is_made_from_it(image: str) -> None:
    assert instructions(image)[0] == ("ARG", "BASE=python:3.11-slim")
    names = {"${BASE}"}
    for [(word, rest), *_] in stages(image):
        assert word == "FROM"
        base, *name = rest.split(" AS ")
        assert base in names
        names |= set(name)


@pytest.mark.parametrize("image", IMAGES)
def test_it_runs_as_nobody_in_particular_and_no_instruction_after_that_runs_anything(image: str) -> None:
    last = stages(image)[-1]
    at = last.index(("USER", USERS[image]))

    assert [rest for word, rest in last if word == "USER"] == [USERS[image]]
    assert {word for word, _ in last[at:]} <= {"USER", "CMD", "ENTRYPOINT", "ARG", "LABEL"}


@pytest.mark.parametrize("image", IMAGES)
def test_only_the_stand_ins_have_packages_of_debians(image: str) -> None:
    commands = " ".join(rest for word, rest in instructions(image) if word == "RUN")

    assert ("apt-get" in commands) == (image == "stand-ins")
    assert not re.search(r"\b(curl|wget|git|npm)\b", commands), "nothing is fetched but by pip and apt"


@pytest.mark.parametrize("image", IMAGES)
def test_packages_are_pinned_and_where_they_come_from_stays_in_no_layer(image: str) -> None:
    for stage in stages(image):
        for word, rest in stage:
            installs = word == "RUN" and "pip install" in rest
            if installs and "--no-index" not in rest:
                assert "--mount=type=secret,id=pip.conf" in rest
                assert re.search(r"--constraint constraints", rest)
            assert not re.search(r"PIP_(EXTRA_)?INDEX|--index-url|TOKEN|PASSWORD=", rest)


@pytest.mark.parametrize("image", IMAGES)
def test_its_label_says_the_version_of_the_package(image: str) -> None:
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]

    assert ("ARG", f"VERSION={version}") in stages(image)[-1]
    [label] = [rest for word, rest in stages(image)[-1] if word == "LABEL"]
    assert 'org.opencontainers.image.version="${VERSION}"' in label


@pytest.mark.parametrize("image", IMAGES)
def test_what_it_copies_is_let_into_the_build_and_what_holds_secrets_or_is_large_is_not(image: str) -> None:
    for word, rest in instructions(image):
        if word == "COPY" and "--from=" not in rest:
            *sources, _ = [each for each in rest.split() if not each.startswith("--")]
            assert sources
            for source in sources:
                assert (REPOSITORY / source).exists()
                assert _let_in(source), source
    for kept_out in (".git/config", ".venv/bin/python", ".scorewatch/store/a", ".cache/a", "tests/conftest.py", ".env"):
        assert not _let_in(kept_out)
    assert not _let_in("resources/__pycache__/settings.cpython-311.pyc")


def _let_in(path: str) -> bool:
    """Whether .dockerignore lets a path into the build: the last of its lines that matches decides."""
    let_in = True
    for line in (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!").rstrip("/")
        parts = Path(path).parts
        heads = ["/".join(parts[: number + 1]) for number in range(len(parts))]
        if any(_matches(head, pattern) for head in heads):
            let_in = line.startswith("!")
    return let_in


def _matches(path: str, pattern: str) -> bool:
    if pattern.startswith("**/"):
        return fnmatch.fnmatchcase(path.rpartition("/")[2], pattern[3:])
    return path.count("/") == pattern.count("/") and fnmatch.fnmatchcase(path, pattern)


def test_the_extras_of_the_monitoring_image_are_all_that_a_cluster_needs() -> None:
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    [install] = [rest for word, rest in instructions("monitoring") if "--constraint constraints.txt" in rest]
    [named] = re.findall(r"'\.\[([a-z,]+)\]'", install)

    assert set(named.split(",")) == {"monitoring", "ui", "kubernetes", "postgres"} <= set(extras)

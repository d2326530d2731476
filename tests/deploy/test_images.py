"""What the Dockerfiles say; `test_image_*.py` build the images and run them."""

from __future__ import annotations

import importlib.metadata
import re
import shlex
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.deploy import built
from tests.deploy.dockerfiles import IMAGES, REPOSITORY, flags, instructions, let_in, stages

USERS = {"monitoring": "1000:1000", "airflow": "50000:0", "stand-ins": "1000:1000"}


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
            assert not re.search(r"INDEX|-url\b|\s-i\s|TOKEN|PASSWORD=", rest)


@pytest.mark.parametrize("image", IMAGES)
def test_what_it_installs_is_pinned_with_all_that_this_needs(image: str) -> None:
    installs = [
        shlex.split(command)
        for word, rest in instructions(image)
        if word == "RUN"
        for command in flags(rest)[1].split("&&")
        if "pip install" in command and "--no-deps" not in command
    ]

    assert installs
    for words in installs:
        assert words.count("--constraint") == 1
        file = words[words.index("--constraint") + 1]
        named = [each for each in words[2:] if not each.startswith("-") and each != file]
        assert named
        assert {name for name in _needed(named) if name not in built.pins(file)} == set()


def _needed(named: list[str]) -> set[str]:
    """The packages that are meant by what pip is told, and what they need, as far as these tests have it."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    found, waiting = set[tuple[str, str]](), [Requirement(each.replace(".[", "scorewatch[")) for each in named]
    while waiting:
        each = waiting.pop()
        if each.name == "scorewatch":
            extras = [one for extra in each.extras for one in project["optional-dependencies"][extra]]
            waiting += map(Requirement, [*project["dependencies"], *extras])
            continue
        for extra in ("", *each.extras):
            if (canonicalize_name(each.name), extra) not in found:
                found.add((canonicalize_name(each.name), extra))
                of_it = map(Requirement, _requires(each.name))
                waiting += [one for one in of_it if one.marker is None or one.marker.evaluate({"extra": extra})]
    return {name for name, _ in found}


def _requires(name: str) -> list[str]:
    try:
        return importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []


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
                assert let_in(source), source
    for kept_out in (".git/config", ".venv/bin/python", ".scorewatch/store/a", ".cache/a", "tests/conftest.py", ".env"):
        assert not let_in(kept_out)
    assert not let_in("resources/__pycache__/settings.cpython-311.pyc")


def test_the_extras_of_the_monitoring_image_are_all_that_a_cluster_needs() -> None:
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    [install] = [rest for word, rest in instructions("monitoring") if "--constraint constraints.txt" in rest]
    [named] = re.findall(r"'\.\[([a-z,]+)\]'", install)

    assert set(named.split(",")) == {"monitoring", "ui", "kubernetes", "postgres"} <= set(extras)

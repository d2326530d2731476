"""The builder that takes the place of a container engine: that it does what an engine would, and leaves nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy import image_build
from tests.deploy.dockerfiles import Instruction, context, flags, let_in, mounts
from tests.deploy.image_build import Builder

FIRST = ("FROM", "${BASE} AS first")
MAKE = "mkdir -p /a/anew && echo 1 > /a/gone && echo 2 > /a/kept && echo 3 > /a/anew/old && ln -s kept /a/link"
CHANGE = "rm -r /a/gone /a/anew && mkdir /a/anew && echo 4 > /a/anew/young"


@pytest.fixture
def builder() -> Iterator[Builder]:
    found = Builder()
    try:
        yield found
    finally:
        found.remove()
    assert str(found.folder) not in Path("/proc/self/mountinfo").read_text()
    assert not found.folder.exists()


def test_a_stage_has_what_another_one_has_at_its_end_and_not_what_was_removed_there(
    builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages: list[list[Instruction]] = [
        [FIRST, ("ENV", "WORD=given"), ("RUN", MAKE)],
        [("FROM", "first AS second"), ("RUN", CHANGE), ("RUN", '[ "$WORD" = given ] && [ "$(id -u)" = 0 ]')],
        [("FROM", "${BASE}"), ("COPY", "--from=second /a /b"), ("WORKDIR", "/c"), ("COPY", "pyproject.toml ./")],
    ]
    monkeypatch.setattr(image_build, "stages", lambda _: stages)

    image = builder.build("made up")

    copied = image.layers[0] / "b"
    assert sorted(each.relative_to(copied).as_posix() for each in copied.rglob("*")) == [
        *("anew", "anew/young", "kept", "link")
    ]
    assert (copied / "link").readlink() == Path("kept")
    assert image.path("/c/pyproject.toml").read_bytes() == Path(image_build.REPOSITORY / "pyproject.toml").read_bytes()
    assert image.folder == "/c"


@pytest.mark.parametrize("instruction", [("COPY", "tests tests"), ("COPY", "uv.lock ./"), ("RUN", "echo no; exit 3")])
def test_a_build_fails_for_a_command_that_fails_and_for_a_file_that_is_not_let_in(
    builder: Builder, monkeypatch: pytest.MonkeyPatch, instruction: Instruction
) -> None:
    monkeypatch.setattr(image_build, "stages", lambda _: [[FIRST, instruction]])
    monkeypatch.setattr(image_build.base_image, "make", lambda folder: (folder / "proc").mkdir())

    with pytest.raises(AssertionError, match=instruction[1].split()[0]):
        builder.build("made up")


def test_the_files_that_a_build_sees_are_those_that_are_let_in() -> None:
    found = context()

    assert {"pyproject.toml", "constraints.txt", "deploy/docker/airflow/entrypoint", "resources/errors.py"} <= set(
        found
    )
    assert [
        each for each in found if not let_in(each) or each.startswith(("tests", ".git/", "deploy/kubernetes"))
    ] == []


def test_options_of_an_instruction_are_told_from_its_arguments() -> None:
    run = "--mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=cache,target=/c pip install --quiet a"

    assert flags(run)[1] == "pip install --quiet a"
    assert flags("--from=code --chmod=0755 /a /b") == ({"from": "code", "chmod": "0755"}, "/a /b")
    assert mounts(run) == [
        {"type": "secret", "id": "pip.conf", "target": "/etc/pip.conf"},
        {"type": "cache", "target": "/c"},
    ]

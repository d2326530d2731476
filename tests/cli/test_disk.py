"""What the command says, and ends with, when a disk refuses."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from monitoring_assets import cli


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command that meets an error; its exit code."""

    def run(number: int, *names: str) -> int:
        def command(**_: Any) -> None:
            raise OSError(number, os.strerror(number), *names)

        monkeypatch.setattr(cli.cli, "main", command)
        return cli._run()

    return run


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("names", [(), ("/data/file",)])
def test_a_full_disk_may_be_tried_again(
    ends: Any, capsys: pytest.CaptureFixture[str], number: int, names: tuple[str, ...]
) -> None:
    assert ends(number, *names) == 75
    where = "".join(f"{name}: " for name in names)
    assert capsys.readouterr().err == f"error: {where}{os.strerror(number)}. Make room, then try again.\n"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST])
def test_what_is_not_this_users_is_bad_input_whether_it_is_read_or_written(
    ends: Any, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    assert ends(number, "/data/model.yaml") == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: /data/model.yaml: {os.strerror(number)}. Give this user the right to it")
    assert "writ" not in said


@pytest.mark.parametrize(("number", "names"), [(errno.EACCES, ()), (errno.ECONNRESET, ()), (errno.EIO, ("/data/x",))])
def test_what_is_no_disks_word_keeps_its_traceback(ends: Any, number: int, names: tuple[str, ...]) -> None:
    with pytest.raises(OSError, match=os.strerror(number)):
        ends(number, *names)


def test_a_home_that_is_a_file_is_named(tmp_path: Path, ends: Any, capsys: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "home"
    home.write_text("no folder")
    with pytest.raises(FileExistsError) as met:
        home.mkdir(parents=True, exist_ok=True)
    assert ends(met.value.errno, str(met.value.filename)) == 2
    assert f"error: {home}: File exists." in capsys.readouterr().err

"""The command as people and pods call it: exit codes, killed and interrupted runs, several at once."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monitoring_assets.cli import VERBS, cli
from monitoring_assets.version import CHECKS

DAYS = [f"2025-03-{day:02d}" for day in range(1, 6)]
DUPLICATED, ABSENT = "2025-03-06", "2025-03-07"
COMPLETE = {asset: set(DAYS) for asset in CHECKS}


@pytest.fixture(scope="module")
def undisturbed(new_machine: Callable[[], Any]) -> dict[str, Any]:
    """What the store holds after one backfill of five days that nobody disturbed."""
    machine = new_machine()
    process = machine.backfill()
    code, out, err = process.finish()
    assert code == 0, err
    assert json.loads(out)["worked_on"] == len(DAYS)
    assert machine.recorded() == COMPLETE
    assert list(machine.temporary.iterdir()) == [], "temporary files were left behind"
    contents: dict[str, Any] = machine.contents()
    return contents


def test_every_verb_explains_itself() -> None:
    """In this process: an interpreter each would only repeat what the other tests start anyway."""
    from click.testing import CliRunner

    for verb in VERBS:
        answer = CliRunner().invoke(cli, [verb, "--help"])
        assert answer.exit_code == 0, verb
        assert f"Usage: cli {verb}" in answer.output
        assert len(answer.output.split("\n\n")[1].split()) > 5, f"{verb} does not say what it does"


def test_what_is_wrong_with_the_arguments_is_said_and_exits_2(machine: Any) -> None:
    features = ("--stage", "features")
    wrong = {
        ("run", "small", "1.0.0", "--partition", "yesterday", *features): "yesterday",
        ("run", "nobody", "1.0.0", "--partition", DAYS[0], *features): "nobody 1.0.0 is not in the registry",
        ("run", "small", "9.9.9", "--partition", DAYS[0], *features): "small has the versions 1.0.0",
        ("backfill", "small", "1.0.0", "--to", "2099-01-01"): "not complete yet",
        ("run", "small", "1.0.0"): "--partition",
        ("fly",): "No such command",
    }
    for arguments, said in wrong.items():
        code, out, err = machine.run(*arguments)
        assert (code, out) == (2, ""), (arguments, err)
        assert said in err
        assert "Traceback" not in err
    assert machine.written() == 0


def test_a_partition_without_data_exits_2_and_one_with_duplicate_keys_3(machine: Any) -> None:
    run = ("run", "small", "1.0.0", "--stage", "features", "--json", "--partition")
    code, out, _ = machine.run(*run, ABSENT)
    found = {each["asset"]: each for each in json.loads(out)}
    assert (code, found["features"]["state"], found["features"]["status"]) == (2, "missing", "insufficient_data")
    assert found["csi"]["status"] == "insufficient_data", "whoever runs stages one by one ends here"
    code, out, _ = machine.run(*run, DUPLICATED)
    found = {each["asset"]: each for each in json.loads(out)}
    assert (code, found["features"]["state"], found["features"]["status"]) == (3, "blocked", "breach")
    assert "application_id" in found["features"]["reason"]
    assert found["psi"]["status"] == found["csi"]["status"] == "insufficient_data"


@pytest.mark.parametrize(
    ("model", "named", "environ"),
    [
        ("small", "s3://nowhere/scorewatch", {"SCOREWATCH_STORE": "s3://nowhere/scorewatch"}),
        ("remote", "s3://lake/applications", {}),
    ],
    ids=["the store", "the lake"],
)
def test_what_cannot_be_reached_is_named_and_exits_75_before_long(
    machine: Any, free_port: int, model: str, named: str, environ: dict[str, str]
) -> None:
    process = machine.start(
        *("run", model, "1.0.0", "--partition", DAYS[0], "--stage", "features"),
        SCOREWATCH_S3_ENDPOINT=f"http://127.0.0.1:{free_port}",
        AWS_ACCESS_KEY_ID="somebody",
        AWS_SECRET_ACCESS_KEY="not-for-a-log",
        AWS_DEFAULT_REGION="us-east-1",
        **environ,
    )
    code, out, err = process.finish(limit=60)
    assert (code, out) == (75, ""), err
    assert named in err
    assert "Traceback" not in err
    assert "not-for-a-log" not in err


@pytest.mark.parametrize("verb", ["demo", "up"])
def test_a_home_that_cannot_be_made_is_named_and_exits_2(machine: Any, tmp_path: Path, verb: str) -> None:
    (tmp_path / "file").write_text("no folder")
    home = tmp_path / "file" / "home"
    code, _, err = machine.run(verb, SCOREWATCH_HOME=str(home))
    assert code == 2, err
    assert f"error: {home}" in err
    assert ": Not a directory. Give this user the right to it, or name another path" in err
    assert "Traceback" not in err


def test_a_second_run_reuses_what_the_first_one_made(machine: Any) -> None:
    run = ("run", "small", "1.0.0", "--partition", DAYS[0], "--trigger", "backfill", "--json")
    code, out, err = machine.run(*run)
    assert code == 0, err
    first, contents = json.loads(out), machine.contents()
    code, out, err = machine.run(*run)
    assert code == 0, err
    second = json.loads(out)
    assert {each["state"] for each in first} == {"materialised"}
    assert {each["state"] for each in second} == {"reused"}
    for name in ("asset", "status", "rows", "digest", "attempt"):
        assert [each[name] for each in first] == [each[name] for each in second]
    assert machine.contents() == contents
    assert machine.recorded() == {asset: {DAYS[0]} for asset in CHECKS}


def test_ctrl_c_in_a_backfill_exits_130_and_the_next_one_completes_it(
    machine: Any, eventually: Callable[..., Any], undisturbed: dict[str, Any]
) -> None:
    process = machine.backfill()
    eventually(lambda: machine.written() > 2, "the backfill writes")
    process.family()
    process.popen.send_signal(signal.SIGINT)
    code, out, err = process.finish()
    assert (code, out) == (130, ""), err
    assert "interrupted" in err
    assert "Traceback" not in err
    eventually(lambda: not process.alive(), f"no process is left, of {process.alive()}")
    assert list(machine.temporary.iterdir()) == []
    assert machine.written() < len(undisturbed)
    assert machine.run_statuses() == ["FAILURE"]
    code, _, err = machine.backfill().finish()
    assert code == 0, err
    assert machine.contents() == undisturbed
    assert machine.recorded() == COMPLETE


def test_a_backfill_that_is_killed_at_any_moment_leaves_nothing_that_the_next_one_does_not_put_right(
    machine: Any, eventually: Callable[..., Any], undisturbed: dict[str, Any]
) -> None:
    total = sum(1 for key in undisturbed if not key.startswith("pending/"))
    moments = sorted(random.sample(range(total), 3))
    print(f"killed after {moments} of {total} files")  # noqa: T201 - shown when the test fails
    for moment in moments:
        kill_after(machine, eventually, moment)
    code, _, err = machine.backfill().finish()
    assert code == 0, err
    assert machine.contents() == undisturbed
    assert machine.recorded() == COMPLETE
    assert set(machine.run_statuses()) <= {"SUCCESS", "FAILURE"}


def kill_after(machine: Any, eventually: Callable[..., Any], files: int) -> None:
    """Start a backfill, and kill it when the store holds more than so many files."""
    process = machine.backfill()
    eventually(lambda: machine.written() > files or process.popen.poll() is not None, f"more than {files} files")
    process.family()
    process.popen.kill()
    process.finish()
    eventually(lambda: not process.alive(), "what the killed process started is gone")


def test_two_backfills_of_a_version_at_once_leave_what_one_would(machine: Any, undisturbed: dict[str, Any]) -> None:
    for process in [machine.backfill(), machine.backfill()]:
        code, _, err = process.finish(120)
        assert code == 0, err
    assert machine.contents() == undisturbed
    assert set(machine.run_statuses()) == {"SUCCESS"}
    # One may have judged a materialisation after the other had replaced it: the next backfill judges the newer one.
    code, _, err = machine.backfill().finish()
    assert code == 0, err
    assert machine.contents() == undisturbed
    assert machine.recorded() == COMPLETE


def test_two_models_at_once_share_the_instance(machine: Any, undisturbed: dict[str, Any]) -> None:
    both = {model: machine.backfill(model) for model in ("small", "other")}
    for model, process in both.items():
        code, out, err = process.finish(120)
        assert code == 0, err
        assert json.loads(out)["model"] == model
        assert machine.recorded(model) == COMPLETE
    assert machine.contents("small") == undisturbed
    assert len(machine.contents("other")) == len(undisturbed)

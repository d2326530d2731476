"""The `scorewatch` command: a module a verb, imported when the verb is called."""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
import tempfile
from pathlib import Path

import click

from resources.errors import (
    EXIT_BAD_INPUT,
    EXIT_INFRASTRUCTURE,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_UNEXPECTED,
    ScorewatchError,
)
from resources.settings import Settings

VERBS = {
    "validate": "Check a model folder before it is registered.",
    "register": "Deploy a model version: upload artefact and reference, the manifest last.",
    "update": "Change what may change of a registered version.",
    "run": "Materialise one partition of one version (what a pod runs).",
    "features": "Write one partition's features to a file, for a model's own container.",
    "backfill": "Materialise a range of partitions as one run.",
    "status": "Show the fleet at a glance: how each version stands, and why.",
    "alerts": "Show the open episodes: why, since when, and who was told.",
    "silence": "Hold back the pages of a model for a while.",
    "publish": "Tell PagerDuty what the results ask for (stages and a sensor do so by themselves).",
    "policy": "Try a policy on the results of the past: what would have paged, when and why.",
    "datadog": "Keep Scorewatch's dashboards and monitors at Datadog up to date.",
    "export-dags": "Export the asset graph as Airflow DAGs.",
    "storage": "Create, migrate and wait for Dagster's storage.",
    "docs": "Build Great Expectations' Data Docs of a partition.",
    "demo": "Try it all on public car-loan data.",
    "up": "Start Dagster's webserver and daemon on this machine.",
}


FULL = (errno.EDQUOT, errno.ENOSPC)
NOT_OURS = (errno.EACCES, errno.EEXIST, errno.ENOTDIR, errno.EPERM, errno.EROFS)
"""What a disk answers that is full, and of a path that is not this user's, or no folder."""


class _Verbs(click.Group):
    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"monitoring_assets.cli.{cmd_name.replace('-', '_')}").command
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.group(
    cls=_Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done · 1 a bug · 2 bad input · 3 a blocking quality check failed · 75 infrastructure "
    "trouble, try again · 130 interrupted. Settings come from SCOREWATCH_* variables; without any, everything lives in "
    "./.scorewatch.",
)
@click.version_option(package_name="scorewatch")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Scorewatch monitors credit-scoring models: drift, quality and performance of every partition of their data."""
    ctx.obj = Settings.from_environment(os.environ, Path.cwd())


def main() -> None:
    """Entry point: runs a verb and ends the process with the exit code of what went wrong."""
    # SIGTERM ends a process as Ctrl-C does: temporary folders go, and the run is recorded as interrupted.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="scorewatch-") as folder:
        # Applicants' rows lie in it for a while. An interrupt that hits a stage's own cleaning up leaves none behind.
        tempfile.tempdir = folder
        code = _run()
    sys.exit(code)


def _run() -> int:
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return EXIT_BAD_INPUT
    except ScorewatchError as error:
        click.secho(f"error: {error}", fg="red", err=True)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.secho("interrupted", err=True)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return EXIT_UNEXPECTED
    except OSError as error:
        return _disk(error)
    return code if isinstance(code, int) else EXIT_OK


def _disk(error: OSError) -> int:
    """Say what a disk refuses, of which a traceback would tell nobody more; what is no disk's word is raised again."""
    if error.errno in FULL:
        where = f"{error.filename}: " if error.filename else ""
        click.secho(f"error: {where}{error.strerror}. Make room, then try again.", fg="red", err=True)
        return EXIT_INFRASTRUCTURE
    if error.errno not in NOT_OURS or error.filename is None:
        raise error
    remedy = (
        "Give this user the right to it, or name another path; SCOREWATCH_HOME says where everything lies by default."
    )
    click.secho(f"error: {error.filename}: {error.strerror}. {remedy}", fg="red", err=True)
    return EXIT_BAD_INPUT

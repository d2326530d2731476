"""Airflow on one machine, over the store of a Scorewatch that lives there too: for trying, and for tests.

Run by the Python of Airflow's environment: ``python -m airflow_bridge.standalone --help``. Everything listens on
loopback, and whoever reaches it is an administrator.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import click
import psutil  # type: ignore[import-untyped]  # Airflow brings it

from airflow_bridge.export import CURRENT, plan_key, set_key
from airflow_bridge.schema import DagPlan, PlanSet, decode
from resources.errors import ScorewatchError
from resources.object_store import ObjectStore, open_store

COMPONENTS = {
    "api-server": ("api-server", "--workers", "1"),
    # The servers of logs would listen on all addresses, and here everybody reads the files.
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}
READY_S = 180.0
GRACE_S = 20.0
AGAIN_S = 2.0
REFRESH_S = 5
BUNDLE = POOL = "scorewatch"
_PREPARED = ("db", "migrate"), ("pools", "set", POOL, "32", "tasks of Scorewatch", "--include-deferred")
# One process for both: to import Airflow takes longer than either.
PREPARE = f"""
from airflow.cli.cli_parser import get_parser
for line in {_PREPARED!r}:
    arguments = get_parser().parse_args(line)
    arguments.func(arguments)
"""
STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--store", required=True, metavar="URI", help="Scorewatch's store, as in SCOREWATCH_STORE.")
@click.option("--home", required=True, type=click.Path(path_type=Path), help="Folder of Airflow's own: AIRFLOW_HOME.")
@click.option("--command", default="scorewatch", show_default=True, help="Scorewatch's executable, which tasks run.")
@click.option("--port", default=8080, show_default=True, help="Of the web interface and the REST API.")
def main(store: str, home: Path, command: str, port: int) -> None:
    """Run Airflow's components until Ctrl-C, which ends all of them; one that dies is started again."""
    url = f"http://127.0.0.1:{port}"
    for number in STOP:
        signal.signal(number, _stop)
    _check_free(port)
    try:
        how = how_to_run_one(open_store(store, s3_endpoint=os.environ.get("SCOREWATCH_S3_ENDPOINT")), url)
    except (ScorewatchError, ValueError) as error:
        raise click.ClickException(f"{store} cannot be read: {error}") from error
    environ = environment(store, home.absolute(), command, port, os.environ)
    logs = home.absolute() / "output"
    logs.mkdir(parents=True, exist_ok=True)
    try:
        click.echo("preparing Airflow's database …")
        subprocess.run([sys.executable, "-c", PREPARE], env=environ, check=True, stdout=subprocess.DEVNULL)  # noqa: S603
        with _running(environ, logs) as processes:
            click.echo("starting Airflow …")
            _await(url, processes)
            click.echo(f"Airflow is up: {url}\n  logs: {logs}\n  stop: Ctrl-C")
            click.echo(how)
            while True:
                time.sleep(AGAIN_S)
                _start_missing(processes, environ, logs)
    except KeyboardInterrupt:
        click.echo("stopped")
    except subprocess.CalledProcessError as error:
        raise click.ClickException(f"Airflow's database cannot be prepared: exit code {error.returncode}.") from error


def _stop(*_: object) -> None:
    """Once: another Ctrl-C would leave behind what the first one has not ended yet."""
    for number in STOP:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def environment(store: str, home: Path, command: str, port: int, environ: Mapping[str, str]) -> dict[str, str]:
    """What Airflow's processes get; what the caller sets of it wins."""
    url = f"http://127.0.0.1:{port}"
    bundle = {
        "name": BUNDLE,
        "classpath": "airflow_bridge.bundle.ScorewatchBundle",
        "kwargs": {
            "store_uri": store,
            "s3_endpoint": environ.get("SCOREWATCH_S3_ENDPOINT"),
            "refresh_interval": REFRESH_S,
        },
    }
    options = {
        "CORE__LOAD_EXAMPLES": "False",
        "CORE__DAGS_FOLDER": str(home / "dags"),
        "CORE__EXECUTOR": "LocalExecutor",
        "CORE__PARALLELISM": str(max(2, os.cpu_count() or 2)),
        "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "CORE__FERNET_KEY": "",
        "API__HOST": "127.0.0.1",
        "API__PORT": str(port),
        "API__BASE_URL": url,
        "API__SECRET_KEY": _secret(home / "session.key"),
        "API_AUTH__JWT_SECRET": _secret(home / "token.key"),
        # SQLite lets one write at a time, and of the 5 seconds that others wait by default a busy machine takes more.
        "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db?timeout=60",
        "DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps([bundle]),
        "DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH": str(home / "bundles"),
        "DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": str(REFRESH_S),
        "LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        "SCOREWATCH__COMMAND": command,
        "SCOREWATCH__POOL": POOL,
        "SCOREWATCH__STORE_URI": store,
        "SCOREWATCH__SHARDS": "2",
        # A scheduler that was killed is started again at once; what it had queued would wait for five minutes.
        "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "30",
        "TRIGGERER__CAPACITY": "1000",
        "USAGE_DATA_COLLECTION__ENABLED": "False",
        # Of 5 seconds a finished task would hold its slot for all.
        "WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
    }
    own = {f"AIRFLOW__{name}": value for name, value in options.items()}
    return {**own, **environ, "AIRFLOW_HOME": str(home)}


def _secret(file: Path) -> str:
    """A key that only this machine's user can read, the same one at the next start."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError), os.fdopen(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as new:
        new.write(secrets.token_urlsafe(48))
    return file.read_text(encoding="ascii")


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        # Connections of the last time that are not over yet do not matter.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise click.ClickException(
                f"127.0.0.1:{port} cannot be listened on: {error.strerror}. Stop what is there, or give another --port."
            ) from error


def how_to_run_one(store: ObjectStore, url: str) -> str:
    """For the first of the DAGs that were exported, so that the line works as it is."""
    plan = _first_plan(store)
    if plan is None:
        return "  There are no DAGs yet: scorewatch export-dags makes them."
    key = plan.partitions.start.strftime(plan.partitions.key_format)
    body = json.dumps({"logical_date": None, "partition_key": key})
    return f"""\
  run a partition: open a DAG, Trigger, Advanced Options, Partition Key such as {key}; or
    curl --oauth2-bearer "$(curl -s {url}/auth/token | cut -d'"' -f4)" --json '{body}' \\
      {url}/api/v2/dags/{plan.dag_id}/dagRuns"""


def _first_plan(store: ObjectStore) -> DagPlan | None:
    current = store.get(CURRENT)
    found = current and store.get(set_key(json.loads(current.data)["set"]))
    plans = PlanSet.model_validate_json(found.data).plans if found else {}
    first = store.get(plan_key(plans[min(plans)])) if plans else None
    return decode(first.data, plans[min(plans)]) if first else None


def _airflow() -> list[str]:
    return [sys.executable, "-m", "airflow"]


@contextmanager
def _running(environ: Mapping[str, str], logs: Path) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Airflow's components, each with a process group of its own: ended one by one they leave children behind."""
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        _start_missing(processes, environ, logs)
        yield processes
    finally:
        # The runners of tasks have groups of their own, and lose their parents before they end.
        family = psutil.Process().children(recursive=True)
        for each in family:
            with suppress(psutil.NoSuchProcess):
                each.terminate()
        for left in psutil.wait_procs(family, GRACE_S)[1]:
            with suppress(psutil.NoSuchProcess):
                left.kill()
        for process in processes.values():
            _signal(process, signal.SIGKILL)
            process.wait()


def _start_missing(processes: dict[str, subprocess.Popen[bytes]], environ: Mapping[str, str], logs: Path) -> None:
    for name, arguments in COMPONENTS.items():
        running = processes.get(name)
        if running is not None and running.poll() is None:
            continue
        if running is not None:
            click.echo(f"{name} ended with exit code {running.returncode} and is started again", err=True)
            _signal(running, signal.SIGKILL)
        with (logs / f"{name}.log").open("ab") as log:
            processes[name] = subprocess.Popen(  # noqa: S603
                [*_airflow(), *arguments],
                env=dict(environ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _await(url: str, processes: Mapping[str, subprocess.Popen[bytes]]) -> None:
    """Until every component says that it is well."""
    end = time.monotonic() + READY_S
    while time.monotonic() < end:
        for name, process in processes.items():
            if process.poll() is not None:
                raise click.ClickException(f"{name} ended with exit code {process.returncode}: its log says why.")
        with suppress(OSError, ValueError), urllib.request.urlopen(f"{url}/api/v2/monitor/health", timeout=5) as answer:  # noqa: S310
            health = json.load(answer)
            if all(health[part]["status"] == "healthy" for part in ("metadatabase", "scheduler", "dag_processor")):
                return
        time.sleep(0.5)
    raise click.ClickException(f"Airflow was not up within {READY_S:.0f} seconds: its logs say why.")


if __name__ == "__main__":
    main()

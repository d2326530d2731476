"""`scorewatch up`."""

from __future__ import annotations

import errno
import fcntl
import http.client
import importlib.util
import json
import os
import signal
import socket
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import yaml

from monitoring_assets.cli.output import working
from monitoring_assets.cli.processes import POLL_S, Child, Children, StopSignals
from resources.errors import BadInput, InfrastructureError
from resources.settings import Settings

START_LIMIT_S = 180.0
RESTARTS, RESTARTS_WITHIN_S = 5, 60.0
"""A process that dies more often than that is not brought back."""
PING_EVERY_S = 5.0
SILENT_S = 180.0
CODE_SERVER = "code-server-"
LOCK_FILE, WORKSPACE_FILE = "up.lock", "workspace.yaml"
LONGEST_SOCKET = 100
"""Bytes that a path of a socket may have anywhere."""

_READY = """{ workspaceOrError { ... on Workspace { locationEntries { name loadStatus locationOrLoadError {
    ... on PythonError { message errorChain { error { message } } } } } } } }"""


@click.command("up")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True, help="The port to listen on.")
@click.pass_obj
def command(settings: Settings, host: str, port: int) -> int:
    """Start Dagster's webserver and daemon on this machine, with an asset group for every registered version.

    From then on versions that are registered are onboarded, and partitions that land are materialised, by themselves.
    Runs until Ctrl-C, and leaves no process behind. Dagster has no login: whoever reaches HOST may launch runs.
    """
    if importlib.util.find_spec("dagster_webserver") is None:
        raise BadInput("Dagster's webserver is not installed. Install it with: pip install 'scorewatch[ui]'")
    _check_free(host, port)
    url = _url(host, port)
    with _only_one(settings.home, url) as lock, StopSignals() as signals:
        click.echo("starting Dagster …", err=True)
        _prepare(settings)
        with (
            tempfile.TemporaryDirectory(prefix="s-") as sockets,
            Children(settings.home / "logs", _environment(settings, os.environ), lock) as children,
        ):
            _start(children, settings, Path(sockets), host, port, signals)
            click.secho(f"Scorewatch is up: {url}", fg="green")
            click.echo(f"  logs: {settings.home / 'logs'}\n  stop: Ctrl-C")
            _keep_up(children, settings.home / WORKSPACE_FILE, signals)
            click.echo("stopping …", err=True)
    return 0


def _start(children: Children, settings: Settings, sockets: Path, host: str, port: int, signals: StopSignals) -> None:
    """Start the code servers, then what reads from them; returns when the webserver has every location.

    Code servers listen on sockets in a folder of this user's: a port would let in every user of the machine, and a
    server that somebody left behind could share it.
    """
    limit = time.monotonic() + START_LIMIT_S

    def wait(ready: Callable[[], bool]) -> None:
        _wait(lambda: signals.asked or ready(), children, limit)
        if signals.asked:
            raise KeyboardInterrupt

    locations = _locations(settings.shards)
    paths = {name: sockets / f"{name}.sock" for name in locations}
    if max(len(os.fsencode(path)) for path in paths.values()) > LONGEST_SOCKET:
        raise BadInput(
            f"The name of {sockets} is too long for sockets. Set TMPDIR to a folder with a shorter one: /tmp"
        )
    workspace = settings.home / WORKSPACE_FILE
    servers = [{"grpc_server": {"location_name": name, "socket": str(path)}} for name, path in paths.items()]
    workspace.write_text(yaml.safe_dump({"load_from": servers}))
    for name, (module, shard) in locations.items():
        where = ("--socket", str(paths[name]), "--location-name", name, "--module-name", module)
        children.start(f"{CODE_SERVER}{name}", "dagster", "code-server", "start", *where, SCOREWATCH_SHARD=str(shard))
    wait(lambda: all(path.exists() for path in paths.values()))
    children.start("daemon", "dagster._daemon", "run", "--workspace", str(workspace))
    serve = ("--host", host, "--port", str(port), "--workspace", str(workspace))
    webserver = children.start("webserver", "dagster_webserver", *serve)
    wait(lambda: _loaded(webserver, host, port, len(locations)))


def _locations(shards: int) -> dict[str, tuple[str, int]]:
    """Code locations by name: the module to load, and the shard that its server serves."""
    from monitoring_assets.sensors.reloading import location

    package = "monitoring_assets.definitions"
    models = {location(number, shards): (f"{package}.models", number) for number in range(shards)}
    return {"control": (f"{package}.control", 0), **models}


def _prepare(settings: Settings) -> None:
    """Create Dagster's storage, before the children would all at once, and look at the registry for a first time."""
    from monitoring_assets.instance import migrate_instance, open_instance
    from monitoring_assets.onboarding import utc_now
    from monitoring_assets.refresh import Refresher
    from monitoring_assets.sensors.reloading import publish_states

    if settings.postgres_url is not None:
        migrate_instance(settings)
    with open_instance(settings) as instance, working("looking at the registry"):
        refresher = Refresher(settings, utc_now)
        while not (found := refresher.look()).complete:
            pass
        publish_states(instance, found.fleet, settings.shards)


def _keep_up(children: Children, workspace: Path, signals: StopSignals) -> None:
    """Until a signal asks to stop, start again what ends by itself; raises InfrastructureError when that is no help."""
    ends: dict[str, list[float]] = defaultdict(list)
    health = Health(children, workspace)
    while not signals.asked:
        health.check()
        if (child := children.ended()) is not None:
            now = time.monotonic()
            ends[child.name] = [each for each in ends[child.name] if each > now - RESTARTS_WITHIN_S] + [now]
            if len(ends[child.name]) > RESTARTS:
                raise _ended(child)
            click.echo(f"the {child.name} ended (exit code {child.process.returncode}); starting it again …", err=True)
            children.start_again(child)
        children.orphaned()
        time.sleep(POLL_S)


class Health:
    """Ends code servers that have not the process which serves their code: Dagster does not bring that back (1.13).

    And those that nobody finds any more, or that have been silent for minutes: whoever loads three hundred versions is
    silent for seconds.
    """

    def __init__(self, children: Children, workspace: Path) -> None:
        from monitoring_assets.sensors.reloading import Servers

        self._children, self._servers = children, Servers(workspace)
        self._answered: dict[int, float] = {}
        self._doubted = set[int]()
        self._asked = time.monotonic()

    def check(self) -> None:
        """Ask them from time to time. One that has not been there yet is still starting.

        Once is no reason: a server that loads its code again changes that process.
        """
        now = time.monotonic()
        if now < self._asked + PING_EVERY_S:
            return
        states, doubted = self._servers.states(), self._doubted
        self._doubted = set()
        for child in self._children.started:
            state = states.get(child.name.removeprefix(CODE_SERVER))
            if not child.name.startswith(CODE_SERVER) or state is None:
                continue
            pid = child.process.pid
            answered = self._answered.get(pid)
            if state == "well":
                self._answered[pid] = now
            elif state == "dead" or (answered is not None and (state == "absent" or now > answered + SILENT_S)):
                self._doubted.add(pid)
                if pid in doubted:
                    child.signal_group(signal.SIGKILL)
        self._asked = time.monotonic()


def _ended(child: Child) -> InfrastructureError:
    return InfrastructureError(
        f"The {child.name} ended by itself (exit code {child.process.returncode}), so everything was stopped. "
        f"The end of {child.log}:\n{child.last_lines()}"
    )


def _wait(ready: Callable[[], bool], children: Children, limit: float) -> None:
    """Wait until ``ready``; raises InfrastructureError when a child ends by itself, or after the limit."""
    while not ready():
        if (child := children.ended()) is not None:
            raise _ended(child)
        if time.monotonic() > limit:
            logs = "\n".join(f"The end of {child.log}:\n{child.last_lines()}" for child in children.started)
            raise InfrastructureError(f"Dagster was not up after {START_LIMIT_S:.0f} seconds.\n{logs}")
        time.sleep(POLL_S)


def _loaded(webserver: Child, host: str, port: int, locations: int) -> bool:
    """Whether the webserver answers and has every location; raises InfrastructureError when it cannot load one."""
    entries = [entry for entry in _location_entries(host, port) if entry["loadStatus"] == "LOADED"]
    for entry in entries:
        problem = entry["locationOrLoadError"] or {}
        if "message" in problem:
            causes = [problem["message"], *(each["error"]["message"] for each in problem["errorChain"])]
            listed = "\n  because of ".join(cause.strip() for cause in causes)
            raise InfrastructureError(
                f"Dagster could not load the code location {entry['name']}: {listed}\n"
                f"The logs are in {webserver.log.parent}."
            )
    return len(entries) == locations


def _location_entries(host: str, port: int) -> list[dict[str, Any]]:
    connection = http.client.HTTPConnection(_reachable(host), port, timeout=10)
    try:
        connection.request("POST", "/graphql", json.dumps({"query": _READY}), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException):
        return []
    finally:
        connection.close()
    entries: list[dict[str, Any]] = []
    if answer.status == http.client.OK:
        entries = json.loads(body)["data"]["workspaceOrError"].get("locationEntries", [])
    return entries


@contextmanager
def _only_one(home: Path, url: str) -> Iterator[int]:
    """Hold the home's lock, and let the children inherit it: it is free when the last process of a stack is gone."""
    home.mkdir(parents=True, exist_ok=True)
    path = home / LOCK_FILE
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise BadInput(
                f"Scorewatch is up on {home} already: {file.read()}. Stop that one first, or set SCOREWATCH_HOME to "
                f"another folder. If it was killed and left processes behind, `fuser -k {path}` ends them."
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()}, {url}")
        file.flush()
        yield file.fileno()


def _environment(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """The children's environment: what was relative to the caller's folder is absolute."""
    return {
        **environ,
        "SCOREWATCH_HOME": str(settings.home),
        "SCOREWATCH_STORE": settings.store_uri,
        "SCOREWATCH_REGISTRY": settings.registry_uri,
        "SCOREWATCH_WORKSPACE": str(settings.home / WORKSPACE_FILE),
        "DAGSTER_HOME": str(settings.dagster_home),
        "DAGSTER_DISABLE_TELEMETRY": "1",
        # A folder named resources in the caller's folder must not take the place of ours.
        "PYTHONSAFEPATH": "1",
    }


def _check_free(host: str, port: int) -> None:
    """Raises BadInput unless the webserver can listen on that address and port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise BadInput(
                f"Port {port} of {host} is taken by another process. Choose another one with --port."
            ) from error
        raise BadInput(f"Cannot listen on --host {host} --port {port}: {error.strerror}.") from error


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104


def _url(host: str, port: int) -> str:
    address = _reachable(host)
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"

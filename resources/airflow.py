"""Airflow's REST API, as far as it takes to ask for runs of partitions, and to know what became of them.

The client is imported by the first request, not with this module.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, ValidationError

from resources.errors import InfrastructureError
from resources.secrets import Secret

if TYPE_CHECKING:
    import httpx2

TIMEOUT_S = 15.0
PAGE = 100
UNFINISHED = ("queued", "running")
QUOTED = 300
"""Characters of an answer that stand in a message."""

Answer = TypeVar("Answer", bound=BaseModel)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class DagRun(_Part):
    """A run of a DAG; ``conf`` is what whoever asked for it said."""

    dag_id: str
    dag_run_id: str
    run_type: str
    state: str
    run_after: datetime
    end_date: datetime | None = None
    partition_key: str | None = None
    conf: dict[str, Any] | None = None

    @property
    def finished(self) -> bool:
        """Whether it is over, one way or the other."""
        return self.state not in UNFINISHED


class TaskInstance(_Part):
    """A task of a run: its last try, counted from 1, and after how many Airflow gives it up."""

    task_id: str
    state: str | None
    try_number: int
    max_tries: int

    @property
    def failed_for_good(self) -> bool:
        """Whether it failed with tries left: what it said is that another try finds the same, or a person ended it."""
        return self.state == "failed" and self.try_number <= self.max_tries


class _Token(_Part):
    access_token: str


class _Runs(_Part):
    dag_runs: tuple[DagRun, ...]
    next_cursor: str | None = None


class _TaskInstances(_Part):
    task_instances: tuple[TaskInstance, ...]


class Airflow:
    """The API at ``url``. Without a user name it takes the token that Airflow gives to anybody, if it does."""

    def __init__(self, url: str, user: str | None = None, password: Secret | None = None) -> None:
        self._url, self._user, self._password = url, user, password
        self._client: httpx2.Client | None = None
        self._token: str | None = None

    def runs(self, dag_id: str = "~", **filters: str | Sequence[str]) -> Iterator[DagRun]:
        """Runs of a DAG, or of all, that match Airflow's own filters, the oldest first; none if there is no such DAG.

        Airflow's filters by a prefix may find a little more than that. Raises InfrastructureError.
        """
        # By offset, a run that ends between two pages would move another one past them.
        cursor: str | None = ""
        while cursor is not None:
            query = {**filters, "limit": str(PAGE), "cursor": cursor}
            answer = self._asked("GET", f"/api/v2/dags/{_path(dag_id)}/dagRuns", params=query)
            if answer.status_code == 404 and dag_id != "~":
                return
            found = self._understood(answer, _Runs)
            yield from found.dag_runs
            cursor = found.next_cursor

    def failed_tasks(self, run: DagRun) -> Sequence[TaskInstance]:
        """The tasks that a run failed of. Raises InfrastructureError."""
        path = f"/api/v2/dags/{_path(run.dag_id)}/dagRuns/{_path(run.dag_run_id)}/taskInstances"
        answer = self._asked("GET", path, params={"state": "failed"})
        return self._understood(answer, _TaskInstances).task_instances

    def run(self, dag_id: str, run_id: str, partition: str, conf: Mapping[str, Any]) -> bool:
        """Ask for a run of a partition; False if there is no such DAG (yet). One that is there already is the same one.

        Raises InfrastructureError when Airflow does not take it.
        """
        body = {"dag_run_id": run_id, "logical_date": None, "partition_key": partition, "conf": dict(conf)}
        answer = self._asked("POST", f"/api/v2/dags/{_path(dag_id)}/dagRuns", json=body)
        if answer.status_code == 404:
            return False
        if answer.status_code != 409:
            self._understood(answer, DagRun)
        return True

    def _asked(self, method: str, path: str, **more: Any) -> httpx2.Response:
        import httpx2  # noqa: PLC0415

        try:
            if self._client is None:
                self._client = httpx2.Client(base_url=self._url, timeout=TIMEOUT_S)
            token = self._token or self._signed_in(self._client)
            answer = self._client.request(method, path, headers=_headers(token), **more)
            if answer.status_code in (401, 403):
                # A token lasts for a day, or until Airflow has another key.
                token = self._signed_in(self._client)
                answer = self._client.request(method, path, headers=_headers(token), **more)
        except httpx2.HTTPError as error:
            # Its text may hold the request, and with that the token.
            raise InfrastructureError(
                f"Airflow at {self._url} did not answer: {type(error).__name__}. See that it is up and that "
                "SCOREWATCH_AIRFLOW_URL is its address; it is asked again."
            ) from None
        return answer

    def _signed_in(self, client: httpx2.Client) -> str:
        if self._user is None:
            answer = client.get("/auth/token")
        else:
            password = self._password.reveal() if self._password else ""
            answer = client.post("/auth/token", json={"username": self._user, "password": password})
        if answer.status_code >= 400:
            # What it says is left out: some answers quote the password.
            raise InfrastructureError(
                f"Airflow at {self._url} does not let {self._user or 'anybody'} in: it answered {answer.status_code}. "
                "Set SCOREWATCH_AIRFLOW_USER and SCOREWATCH_AIRFLOW_PASSWORD to those of a user who may start runs."
            )
        self._token = self._understood(answer, _Token).access_token
        return self._token

    def _understood(self, answer: httpx2.Response, model: type[Answer]) -> Answer:
        asked = f"{answer.request.method} {answer.request.url.path}"
        if answer.status_code >= 400:
            said = answer.text[:QUOTED]
            raise InfrastructureError(f"Airflow at {self._url} answered {answer.status_code} to {asked}: {said}")
        try:
            return model.model_validate_json(answer.content)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise InfrastructureError(
                f"{self._url} does not answer {asked} as Airflow 3.3 does: {where or 'all of it'}: {first['msg']}. "
                "Is SCOREWATCH_AIRFLOW_URL the address of Airflow itself?"
            ) from None


def _headers(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def _path(name: str) -> str:
    return quote(name, safe="~")

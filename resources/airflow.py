"""Airflow's REST API, as far as it takes to ask for runs of partitions, and to know what became of them.

The client is imported by the first request, not with this module.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from resources.errors import InfrastructureError
from resources.secrets import Secret

if TYPE_CHECKING:
    import httpx2

TIMEOUT_S = 15.0
PAGE = 100
UNFINISHED = ("queued", "running")


class DagRun(BaseModel):
    """A run of a DAG; ``conf`` is what whoever asked for it said."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    dag_id: str
    dag_run_id: str
    run_type: str
    state: str
    partition_key: str | None = None
    end_date: datetime | None = None
    conf: dict[str, Any] | None = Field(default=None)

    @property
    def finished(self) -> bool:
        """Whether it is over, one way or the other."""
        return self.state not in UNFINISHED


class Airflow:
    """The API at ``url``. Without a user name it takes the token that Airflow gives to anybody, if it does."""

    def __init__(self, url: str, user: str | None = None, password: Secret | None = None) -> None:
        self._url, self._user, self._password = url, user, password
        self._client: httpx2.Client | None = None

    def runs(self, dag_id: str = "~", **filters: str | Sequence[str]) -> Iterator[DagRun]:
        """Runs of a DAG, or of all, that match Airflow's own filters. Raises InfrastructureError."""
        offset = 0
        while True:
            query = {**filters, "limit": str(PAGE), "offset": str(offset), "order_by": "run_after"}
            answer = self._asked("GET", f"/api/v2/dags/{dag_id}/dagRuns", params=query)
            found = self._understood(answer).get("dag_runs", [])
            try:
                yield from map(DagRun.model_validate, found)
            except ValidationError as error:
                raise InfrastructureError(f"{self._url} told of runs what was not understood: {error}") from error
            offset += PAGE
            if len(found) < PAGE:
                return

    def run(self, dag_id: str, run_id: str, partition: str, conf: Mapping[str, Any]) -> bool:
        """Ask for a run of a partition; False if there is no such DAG (yet). One that is there already is the same one.

        Raises InfrastructureError when Airflow does not take it.
        """
        body = {"dag_run_id": run_id, "logical_date": None, "partition_key": partition, "conf": dict(conf)}
        answer = self._asked("POST", f"/api/v2/dags/{dag_id}/dagRuns", json=body)
        if answer.status_code == 404:
            return False
        if answer.status_code != 409:
            self._understood(answer)
        return True

    def _asked(self, method: str, path: str, **more: Any) -> httpx2.Response:
        import httpx2  # noqa: PLC0415

        try:
            if self._client is None:
                self._client = self._signed_in()
            answer = self._client.request(method, path, **more)
            if answer.status_code == 401:
                # A token lasts for a day or so.
                self._client = self._signed_in()
                answer = self._client.request(method, path, **more)
        except httpx2.HTTPError as error:
            # Its text may hold the request, and with that the token.
            raise InfrastructureError(f"Airflow at {self._url} did not answer: {type(error).__name__}") from None
        return answer

    def _signed_in(self) -> httpx2.Client:
        import httpx2  # noqa: PLC0415

        client = httpx2.Client(base_url=self._url, timeout=TIMEOUT_S)
        if self._user is None:
            answer = client.get("/auth/token")
        else:
            password = self._password.reveal() if self._password else ""
            answer = client.post("/auth/token", json={"username": self._user, "password": password})
        token = self._understood(answer).get("access_token")
        client.headers["Authorization"] = f"Bearer {token}"
        return client

    def _understood(self, answer: httpx2.Response) -> dict[str, Any]:
        if answer.status_code >= 400:
            said = self._password.hidden_in(answer.text[:300]) if self._password else answer.text[:300]
            raise InfrastructureError(
                f"Airflow at {self._url} answered {answer.status_code} to {answer.request.method} "
                f"{answer.request.url.path}: {said}"
            )
        try:
            found = answer.json()
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise InfrastructureError(f"{self._url} does not answer as Airflow does. Is something in between?")
        return found

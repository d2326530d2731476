"""The plans in the store as a versioned bundle of Airflow: what a run started with, it ends with.

A version is the digest of a plan set, and its files are made from the store by that alone, on any worker and at any
time. When a set holds plans that cannot be used, or that this Airflow's limits do not allow, its other DAGs change and
these go on as they were: the version is then two digests, ``<set>~<older set>``, and what the first one lacks comes
from the second one, the last set that had nothing wrong (for want of one the set itself: then those DAGs are left out).
The file ``refused.py`` shows the reasons among Airflow's import errors, and pools that are not there. It is looked at
again with every refresh, until nothing is wrong.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from airflow.dag_processing.bundles.base import BaseDagBundle, BundleVersion, get_bundle_tracking_file

from airflow_bridge import leaving, pools, render
from airflow_bridge.config import Config
from airflow_bridge.export import plan_key
from airflow_bridge.plan_sets import current_set, fetched, plan_set
from airflow_bridge.schema import PLAN_LIMIT, DagPlan, decode, digest
from resources.errors import BadInput
from resources.object_store import open_store

UNUSED_S = 24 * 3600
"""After so long without use the files of a version go. They can be made again."""

_FRESH_S = 3600
_CONNECTIONS = 16
_VERSION = re.compile(r"[0-9a-f]{64}(~[0-9a-f]{64})?")
_LOADER = """\
# The airflow DAGs of one shard, from the plans in the folder beside this file.
from airflow.sdk import get_parsing_context
{more}from airflow_bridge.render import load

globals().update({{f"dag {{dag_id}}": dag for dag_id, dag in load(__file__, get_parsing_context().dag_id).items()}})
"""
# What a file imports from Airflow its processor imports once, before it forks; this takes seconds each time otherwise.
_POD_OPERATOR = "from airflow.providers.cncf.kubernetes.operators import pod\n"
_AS_BEFORE = "The DAG {} is not as its newest plan says. {}"
_REFUSED = "# Why airflow has not the newest plan of every DAG.\nraise ImportError({reasons!r})\n"

_log = logging.getLogger(__name__)


class ScorewatchBundle(BaseDagBundle):
    """The bundle of the store at ``store_uri``, ``s3://bucket/prefix`` or ``file:///folder``, which it only reads.

    ``s3_endpoint`` is for S3 services other than Amazon's. Credentials are what boto3 finds.
    """

    supports_versioning = True

    def __init__(self, *, store_uri: str, s3_endpoint: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._store = open_store(store_uri, s3_endpoint=s3_endpoint)
        self._possible: set[str] = set()

    def initialize(self) -> None:
        """Makes the files of the pinned version, or of the newest one.

        Raises BadInput for a version that cannot be made, and InfrastructureError when the store cannot be reached;
        without a pinned version only if nothing of an earlier time is here.
        """
        if self.version is not None:
            self._pin(self.version)
        else:
            try:
                self.refresh()
            except Exception:
                if self._newest() is None:
                    raise
                _log.exception("bundle %s: the store was not read, the DAGs stay as they were", self.name)
        super().initialize()

    def refresh(self) -> None:
        """Makes the files of the set that is current, if it is another one than before.

        Whatever is raised, the files stay as they were: BadInput names what is wrong with the set.
        """
        if self.version is not None:
            raise BadInput(f"The bundle {self.name} is pinned to {self.version} and cannot be refreshed.")
        config = Config.read()
        current, options = current_set(self._store), digest(config.model_dump_json().encode())
        with self.lock():
            state = self._state()
            known = {"version": current, "options": options}.items() <= state.items()
            if known and self._newest() is not None and not pools.missing(state.get("pools", [])):
                refused, found = dict[str, str](), state
            else:
                refused, found = self._made(current, config, state)
                found = {**found, "options": options}
            found = {**found, "leaving": self._leaving(found)}
            if found == state:
                return
            _replace(self.base_dir / "newest.json", found)
            self._remove_unused(found["version"])
        for reason in refused.values():
            _log.error("bundle %s: %s", self.name, reason)

    def _made(self, current: str, config: Config, state: dict[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
        """Makes the files of the set; what of it is refused, and what there is to know of the version."""
        good, refused = self._possible_plans(current)
        sound = state.get("sound", current) if refused else current
        plans = self._completed(f"{current}~{sound}" if refused else current, good, refused)
        used = pools.named(map(_decoded, plans.values()), config.pool)
        missing = pools.missing(used)
        # Airflow looks for files again when the version is another one; the plans are those of the set.
        version = f"{current}~{sound}" if refused or missing else current
        self._write(version, plans, [*_reasons(refused), *map(pools.NOT_THERE.format, missing)])
        return refused, {"version": version, "sound": sound, "pools": sorted(used), "dags": sorted(plans)}

    def _leaving(self, state: dict[str, Any]) -> list[str]:
        """DAGs that have gone and whose runs have not ended, which are there as well."""
        own = set(state.get("dags", []))
        wanted = {dag_id: began for dag_id, began in leaving.unfinished(self.name).items() if dag_id not in own}
        folder = self.versions_dir / state["version"] / "plans"
        before = {file.stem for file in folder.glob("*.json")} - own
        return leaving.place(folder, before, wanted, self._plan_of)

    def _plan_of(self, dag_id: str, version: str) -> bytes | None:
        """The plan of a DAG in a version; None if that cannot be known any more."""
        try:
            for sha256 in version.split("~") if _VERSION.fullmatch(version) else ():
                good, _ = self._plans(sha256, only={dag_id})
                if dag_id in good:
                    return good[dag_id]
        except BadInput:
            _log.exception("bundle %s: the runs of %s that are under way cannot go on", self.name, dag_id)
        return None

    @property
    def path(self) -> Path:
        """The folder of the version. Before there is any it is one that does not exist."""
        return self.versions_dir / (self.version or self._newest() or "none")

    def get_current_version(self) -> BundleVersion | None:
        """The version whose files are at ``path``."""
        version = self.version or self._newest()
        return None if version is None else BundleVersion(version=version)

    def _pin(self, version: str) -> None:
        if not _VERSION.fullmatch(version):
            raise BadInput(f"{version[:200]!r} is no version of the bundle {self.name}.")
        folder = self.versions_dir / version
        if _age(folder) < _FRESH_S:
            return
        with self.lock():
            if folder.is_dir():
                folder.touch()
            else:
                newest, _, older = version.partition("~")
                # Nothing was refused where it was made, and to find that again takes seconds for a thousand DAGs.
                good, refused = self._possible_plans(newest) if older else self._plans(newest)
                self._write(version, self._completed(version, good, refused), _reasons(refused))

    def _completed(self, version: str, good: dict[str, bytes], refused: Iterable[str]) -> dict[str, bytes]:
        """The plans of the version: what is good, and for what is refused the plan of the older set."""
        older = version.partition("~")[2]
        kept = self._possible_plans(older, only=set(refused))[0] if older else {}
        return {**good, **kept}

    def _possible_plans(self, sha256: str, only: set[str] | None = None) -> tuple[dict[str, bytes], dict[str, str]]:
        """As below, and what this Airflow would not make a DAG of cannot be used either."""
        good, refused = self._plans(sha256, only)
        config = Config.read()
        for dag_id, data in list(good.items()):
            name = digest(data)
            if name in self._possible:
                continue
            reason = render.refusal(_decoded(data), config)
            if reason is None:
                self._possible.add(name)
            else:
                refused[dag_id] = _AS_BEFORE.format(dag_id, reason)
                del good[dag_id]
        return good, refused

    def _plans(self, sha256: str, only: set[str] | None = None) -> tuple[dict[str, bytes], dict[str, str]]:
        """By their DAGs the plans of a set, and why others cannot be used. Raises BadInput when the set cannot be."""
        wanted = plan_set(self._store, sha256).plans
        names = sorted(wanted if only is None else only & set(wanted))
        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            found = dict(zip(names, pool.map(lambda name: self._plan(name, wanted[name]), names), strict=True))
        good = {name: plan for name, plan in found.items() if isinstance(plan, bytes)}
        return good, {name: reason for name, reason in found.items() if isinstance(reason, str)}

    def _plan(self, dag_id: str, sha256: str) -> bytes | str:
        """The plan of a DAG, or why it cannot be used."""
        try:
            data = self._at_hand(dag_id, sha256)
            if data is None:
                data = fetched(self._store, plan_key(sha256), PLAN_LIMIT)
            plan = decode(data, sha256)
        except BadInput as error:
            return _AS_BEFORE.format(dag_id, error)
        if plan.dag_id != dag_id:
            return _AS_BEFORE.format(dag_id, f"The plan {sha256} is one of {plan.dag_id}.")
        return data

    def _at_hand(self, dag_id: str, sha256: str) -> bytes | None:
        newest = self._newest()
        try:
            data = (self.versions_dir / str(newest) / "plans" / f"{dag_id}.json").read_bytes()
        except OSError:
            return None
        return data if digest(data) == sha256 else None

    def _write(self, version: str, plans: dict[str, bytes], refused: list[str]) -> None:
        """Makes the folder of a version, whole or not at all. Whoever calls holds the lock."""
        folder = self.versions_dir / version
        file = _REFUSED.format(reasons="\n".join(refused)) if refused else ""
        other = folder.is_dir() and _read(folder / "refused.py") != file
        if folder.is_dir() and not other:
            folder.touch()
            return
        config = Config.read()
        self.versions_dir.mkdir(parents=True, exist_ok=True)
        making = Path(mkdtemp(prefix=".making-", dir=self.versions_dir))
        making.chmod(0o755)
        loader = _LOADER.format(more=_POD_OPERATOR if config.execution == "kubernetes" else "")
        for number in range(config.shards):
            (making / f"shard_{number:02}.py").write_text(loader, encoding="utf-8")
        (making / ".airflowignore").write_text("plans/\n", encoding="utf-8")
        (making / "plans").mkdir()
        for dag_id, plan in plans.items():
            (making / "plans" / f"{dag_id}.json").write_bytes(plan)
        if refused:
            (making / "refused.py").write_text(file, encoding="utf-8")
        if other:
            folder.rename(making.with_name(f"{making.name}-old"))
        making.rename(folder)

    def _state(self) -> dict[str, Any]:
        try:
            found = json.loads((self.base_dir / "newest.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _newest(self) -> str | None:
        version = self._state().get("version")
        return version if isinstance(version, str) and (self.versions_dir / version).is_dir() else None

    def _remove_unused(self, newest: str) -> None:
        """Of versions that tasks used here Airflow keeps a record, and removes them itself."""
        for folder in self.versions_dir.iterdir():
            half_made = folder.name.startswith(".making-")
            tracked = get_bundle_tracking_file(self.name, folder.name).exists()
            if half_made or (folder.name != newest and not tracked and _age(folder) > UNUSED_S):
                shutil.rmtree(folder, ignore_errors=True)


def _reasons(refused: Mapping[str, str]) -> list[str]:
    return [refused[name] for name in sorted(refused)]


def _decoded(plan: bytes) -> DagPlan:
    return decode(plan, digest(plan))


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def _age(folder: Path) -> float:
    """Seconds since the folder was made or used; endless for none."""
    try:
        return time.time() - folder.stat().st_mtime
    except OSError:
        return float("inf")


def _replace(path: Path, content: dict[str, Any]) -> None:
    making = path.with_name(f".{path.name}")
    making.write_text(json.dumps(content), encoding="utf-8")
    making.replace(path)

"""The fleet: every version that the registry holds, its newest good manifest, and what is wrong with the newest one."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from pydantic import BaseModel, ConfigDict

from monitoring_assets import layout
from monitoring_assets.datasets import content_digest
from monitoring_assets.manifest import Manifest, mutable_changes
from monitoring_assets.manifest_yaml import refuse_large
from monitoring_assets.onboarding import deployed_files, deployed_manifest, pin, utc_now
from monitoring_assets.problems import shown
from monitoring_assets.version import Clock
from resources.at_once import at_once
from resources.errors import BadInput, InfrastructureError, ScorewatchError
from resources.object_store import ObjectInfo, ObjectStore
from resources.settings import Settings

READS = 500
"""Manifests read in one scan: what a tick has time for. A scan that leaves some says so."""
PROBLEM_LIMIT = 4_000
"""Characters of a problem; whoever wants to see more has it checked by `scorewatch register`."""

Name = tuple[str, str]
"""Model and version, as their folders are called."""


class Member(BaseModel):
    """A version to monitor: its manifest as pinned by ``digest``, and what its folder held.

    ``files`` changes with any file that the manifest names, and with itself; ``deployed_at`` is when its first manifest
    was put.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    manifest: Manifest
    digest: str
    files: str
    deployed_at: datetime

    @property
    def name(self) -> Name:
        """Model and version."""
        return self.manifest.model, self.manifest.version


class Registered(BaseModel):
    """One version's folder in the registry.

    ``fingerprint`` is that of its ``model.yaml``. ``problem`` says why that one is not used; ``member`` is then what
    the newest good one said, None if there was none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    version: str
    fingerprint: str
    files: str
    member: Member | None = None
    problem: str = ""

    @property
    def name(self) -> Name:
        """Model and version."""
        return self.model, self.version


class Fleet(BaseModel):
    """All of them, in the order of their names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    registered: tuple[Registered, ...] = ()

    @property
    def members(self) -> Iterator[Member]:
        """The active versions."""
        for each in self.registered:
            if each.member is not None and each.member.manifest.status == "active":
                yield each.member

    def split(self, shards: int) -> list[Shard]:
        """The active versions of every code location, by its number."""
        found: list[list[Member]] = [[] for _ in range(shards)]
        for member in self.members:
            found[shard_of(member.manifest.model, member.manifest.version, shards)].append(member)
        return [Shard(members=tuple(members)) for members in found]

    def shard(self, number: int, shards: int) -> Shard:
        """The active versions of one of the code locations."""
        return self.split(shards)[number]


class Shard(BaseModel):
    """What one `models` code location is built from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    members: tuple[Member, ...] = ()


def shard_of(model: str, version: str, shards: int) -> int:
    """The shard of a version: the same in every process, whatever else is registered."""
    return _hash(model, version) % shards


@lru_cache(maxsize=10_000)
def _hash(model: str, version: str) -> int:
    return int(hashlib.sha256(f"{model}/{version}".encode()).hexdigest()[:8], 16)


@dataclass(frozen=True)
class Scan:
    """The fleet now; ``left`` are the versions whose manifests are still to be read."""

    fleet: Fleet
    left: frozenset[Name]

    @property
    def complete(self) -> bool:
        """Whether no version is missing because nobody had the time to read its manifest."""
        return self.left <= {each.name for each in self.fleet.registered}


@dataclass(frozen=True)
class _Folder:
    name: Name
    infos: dict[str, ObjectInfo]

    @property
    def manifest(self) -> ObjectInfo:
        return self.infos[layout.MANIFEST_FILE]

    def files(self, member: Member | None) -> str:
        """Of the files that count: what lies beside them, such as logs of the training, is nobody's business here."""
        named = {layout.MANIFEST_FILE}
        if member is not None:
            named |= {member.manifest.reference.uri, member.manifest.score.artefact or layout.MANIFEST_FILE}
        counting = sorted(named.intersection(self.infos))
        return content_digest([[file, self.infos[file].fingerprint] for file in counting])


def scan(settings: Settings, known: Fleet, *, again: Collection[Name] = (), clock: Clock = utc_now) -> Scan:
    """List the registry, and read the manifests that are not the ones known, and those of the versions ``again``.

    One bad manifest hides no other: it is a problem of its version, which goes on with its newest good manifest. A
    folder without a manifest is not deployed yet. Good manifests are pinned. Raises InfrastructureError when the
    registry cannot be listed.
    """
    registry, store = settings.open_registry(), settings.open_store()
    before = {each.name: each for each in known.registered}
    folders = list(_folders(registry))
    wanted = _wanted(folders, before, again)
    read = at_once(
        lambda folder: _read(folder, before.get(folder.name), registry, store, settings, clock), wanted[:READS]
    )
    fresh = {each.name: each for each in read}
    found = []
    for folder in folders:
        entry = fresh.get(folder.name) or before.get(folder.name)
        if entry is not None:
            found.append(_with_files(entry, folder.files(entry.member)))
    return Scan(Fleet(registered=tuple(found)), frozenset(folder.name for folder in wanted[READS:]))


def _folders(registry: ObjectStore) -> Iterator[_Folder]:
    """The deployed folders; one listing of the registry, whose keys come in order."""
    for name, infos in _by_folder(registry.list("")):
        if layout.MANIFEST_FILE in infos:
            yield _Folder(name, infos)


def _by_folder(infos: Iterable[ObjectInfo]) -> Iterator[tuple[Name, dict[str, ObjectInfo]]]:
    # Not groupby: "a-b/…" sorts between "a/…" of one store and not of another.
    folders: dict[Name, dict[str, ObjectInfo]] = {}
    for info in infos:
        model, _, rest = info.key.partition("/")
        version, _, name = rest.partition("/")
        if name:
            folders.setdefault((model, version), {})[name] = info
    yield from sorted(folders.items())


def _wanted(folders: Iterable[_Folder], before: dict[Name, Registered], again: Collection[Name]) -> list[_Folder]:
    """The folders whose manifest is to be read; first the new ones, because what failed once may do so for ever."""
    new, once_more = [], []
    for folder in folders:
        known = before.get(folder.name)
        if known is None or known.fingerprint not in ("", folder.manifest.fingerprint):
            new.append(folder)
        elif not known.fingerprint or folder.name in again:
            once_more.append(folder)
    return new + once_more


def _read(
    folder: _Folder,
    known: Registered | None,
    registry: ObjectStore,
    store: ObjectStore,
    settings: Settings,
    clock: Clock,
) -> Registered:
    """The version as its manifest says now, or with the problem that its manifest has."""
    last = known.member if known else None
    model, version = folder.name
    files = deployed_files(registry, model, version)
    where = files.where(layout.MANIFEST_FILE)
    entry = Registered(
        model=model,
        version=version,
        fingerprint=folder.manifest.fingerprint,
        files=folder.files(last),
        member=last,
    )
    try:
        refuse_large(folder.manifest.size, where=where)
        blob = files.get(layout.MANIFEST_FILE)
        if blob is None:
            # The same bytes, put there again, would have the fingerprint of before.
            raise InfrastructureError(f"{where} was removed while it was read.")
        manifest = deployed_manifest(blob.data, where, model, version, settings)
        if last is not None:
            _check_changes(last.manifest, manifest, where)
        digest = pin(store, blob.data)
    except BadInput as error:
        return entry.model_copy(update={"problem": _short(str(error), where)})
    except ScorewatchError as error:
        # No fingerprint: it is read again the next time, and keeps nobody else waiting.
        return entry.model_copy(update={"problem": _short(str(error), where), "fingerprint": ""})
    except Exception as error:
        # A bug of ours, on one manifest out of thousands: the others must not pay for it.
        logging.getLogger(__name__).exception("reading %s", where)
        return entry.model_copy(
            update={"problem": f"{where}: file: could not be checked ({shown(error)}); report this bug of Scorewatch"}
        )
    # Not in the future, as the clock of whoever put it may have it: what arrives until then would be history.
    deployed_at = min(last.deployed_at if last else folder.manifest.last_modified, clock())
    member = Member(manifest=manifest, digest=digest, files="", deployed_at=deployed_at)
    return entry.model_copy(update={"member": member})


def _check_changes(old: Manifest, new: Manifest, where: str) -> None:
    try:
        mutable_changes(old, new)
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from error


def _short(problem: str, where: str) -> str:
    if len(problem) <= PROBLEM_LIMIT:
        return problem
    whole_lines = problem[:PROBLEM_LIMIT].rpartition("\n")[0]
    return f"{whole_lines or problem[:PROBLEM_LIMIT]}\n{where}: file: there is more; correct this first"


def _with_files(entry: Registered, files: str) -> Registered:
    if entry.files == files and (entry.member is None or entry.member.files == files):
        return entry
    member = entry.member and entry.member.model_copy(update={"files": files})
    return entry.model_copy(update={"files": files, "member": member})

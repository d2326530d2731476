"""The files of one model version, in the registry or still in a data scientist's folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from resources.errors import BadInput
from resources.object_store import Blob, LocalStore, MissingObject, ObjectStore


@dataclass(frozen=True)
class VersionFiles:
    """The folder ``prefix`` of a store; names are relative to it and untrusted."""

    store: ObjectStore
    prefix: str = ""

    @classmethod
    def in_folder(cls, folder: Path) -> VersionFiles:
        """A folder on this machine."""
        return cls(LocalStore(folder.resolve()))

    def key(self, name: str) -> str:
        """Key of a file in the store."""
        return f"{self.prefix}/{name}" if self.prefix else name

    def where(self, name: str) -> str:
        """The file as messages name it."""
        return f"{self.store.uri}/{self.key(name)}"

    def get(self, name: str) -> Blob | None:
        """The file; None when there is none."""
        return self.store.get(self.key(name))

    def read(self, name: str, *, named_by: str) -> bytes:
        """The file's bytes; raises BadInput that says which manifest key named it."""
        blob = self.get(name)
        if blob is None:
            raise self._absent(name, named_by)
        return blob.data

    def fetch(self, name: str, path: Path, *, named_by: str) -> None:
        """Download the file; raises BadInput that says which manifest key named it."""
        try:
            self.store.fetch(self.key(name), path)
        except MissingObject as error:
            raise self._absent(name, named_by) from error

    def _absent(self, name: str, named_by: str) -> BadInput:
        return BadInput(
            f"{named_by} names {name!r}, and {self.where(name)} does not exist. Put it there: artefact and reference "
            "come before the manifest."
        )

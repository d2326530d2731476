"""Object store in a folder: one machine, any number of processes."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from resources.errors import BadInput, InfrastructureError
from resources.object_store.base import Blob, MissingObject, ObjectInfo
from resources.object_store.names import check_key, check_prefix, is_key

_LOCK_FILES = 64
_LEFTOVER_AGE_S = 24 * 3600

_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class LocalStore:
    """Objects as files below `root`, which is created by the first write.

    Writers fill a file in `.tmp/` and rename or link it into place, so that a killed one leaves nothing half-written.
    Swaps hold a lock from `.locks/`. Symbolic links below the root are refused: a key cannot lead out of it.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._swept = False

    @property
    def uri(self) -> str:
        return f"file://{self._root}"

    def get(self, key: str) -> Blob | None:
        path = self._path(key)
        with self._translated("read", key):
            try:
                data = path.read_bytes()
            except _ABSENT:
                return None
        return Blob(data, _etag(data))

    def put(self, key: str, data: bytes) -> str:
        self._overwrite(key, BytesIO(data))
        return _etag(data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        path = self._path(key)
        with self._translated("create", key), self._staged(BytesIO(data)) as staged:
            _make_parent(path)
            try:
                path.hardlink_to(staged)
            except FileExistsError:
                if path.is_dir():
                    raise IsADirectoryError from None
                return False
        return True

    def compare_and_swap(self, key: str, data: bytes, etag: str | None) -> str | None:
        if etag is None:
            return _etag(data) if self.put_if_absent(key, data) else None
        path = self._path(key)
        with self._translated("swap", key), self._staged(BytesIO(data)) as staged, self._locked(key):
            current = self.get(key)
            if current is None or current.etag != etag:
                return None
            staged.replace(path)
        return _etag(data)

    def put_file(self, key: str, path: Path) -> None:
        with self._translated("write", key), path.open("rb") as source:
            self._overwrite(key, source)

    def fetch(self, key: str, path: Path) -> None:
        source = self._path(key)
        partial = path.with_name(f".{uuid4().hex}.part")
        with self._translated("fetch", key):
            path.parent.mkdir(parents=True, exist_ok=True)
            if not source.is_file():
                raise MissingObject(f"There is no object {key!r} in {self.uri}.")
            try:
                shutil.copyfile(source, partial)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        folder, _, stem = prefix.rpartition("/")
        return self._walk(folder, stem)

    def list_folders(self, prefix: str) -> Iterator[str]:
        check_prefix(prefix)
        folder = prefix.removesuffix("/")
        return iter(
            sorted(
                entry.name
                for entry in self._entries(folder)
                if entry.is_dir() and next(self._walk(_join(folder, entry.name), ""), None) is not None
            )
        )

    def head(self, key: str) -> ObjectInfo | None:
        path = self._path(key)
        with self._translated("stat", key):
            return _info(key, path.stat) if path.is_file() else None

    def delete(self, key: str) -> None:
        path = self._path(key)
        with self._translated("delete", key), self._locked(key):
            try:
                path.unlink()
            except _ABSENT:
                return

    def location(self, key: str) -> str:
        return str(self._path(key))

    def storage_options(self) -> dict[str, str]:
        return {}

    def _path(self, key: str) -> Path:
        check_key(key)
        path = self._real_root
        for part in key.split("/"):
            path = f"{path}/{part}"
            if os.path.islink(path):  # noqa: PTH114 - many a time for every object, and a Path costs more than the call
                raise BadInput(
                    f"{self.uri}/{key} is, or lies behind, a symbolic link. "
                    "Links are not followed, because they can lead out of the store; put a copy there."
                )
        return Path(path)

    @cached_property
    def _real_root(self) -> str:
        return os.path.realpath(self._root)

    def _overwrite(self, key: str, source: BinaryIO) -> None:
        path = self._path(key)
        with self._translated("write", key), self._staged(source) as staged:
            _make_parent(path)
            with self._locked(key):
                staged.replace(path)

    @contextmanager
    def _translated(self, operation: str, key: str) -> Iterator[None]:
        try:
            yield
        except (NotADirectoryError, IsADirectoryError) as error:
            raise BadInput(
                f"Cannot {operation} {self.uri}/{key}: "
                "a folder has this key, or an object has the key of one of its folders."
            ) from error
        except OSError as error:
            raise InfrastructureError(f"Could not {operation} {self.uri}/{key}: {error}.") from error

    def _own_folder(self, name: str) -> Path:
        folder = self._root / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise BadInput(f"{self.uri} cannot be a store: it, or something above it, is a file.") from None
        return folder

    @contextmanager
    def _staged(self, source: BinaryIO) -> Iterator[Path]:
        """A complete file on the store's own file system, which is gone afterwards unless it was moved."""
        folder = self._own_folder(".tmp")
        staged = folder / uuid4().hex
        try:
            with staged.open("xb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
                target.flush()
                if target.tell():
                    # Without this a power failure can leave the new name with no bytes behind it.
                    os.fsync(target.fileno())
            if not self._swept:
                self._swept = True
                _sweep(folder, older_than=staged.stat().st_mtime - _LEFTOVER_AGE_S)
            yield staged
        finally:
            staged.unlink(missing_ok=True)

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        """Excludes other threads and processes that change this key. The kernel frees a dead holder's lock."""
        folder = self._own_folder(".locks")
        number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) % _LOCK_FILES
        with (folder / f"{number:02}").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _walk(self, folder: str, stem: str) -> Iterator[ObjectInfo]:
        for entry in self._entries(folder):
            if not entry.name.startswith(stem):
                continue
            key = _join(folder, entry.name)
            if entry.is_dir():
                yield from self._walk(key, "")
            elif entry.is_file() and (info := _info(key, entry.stat)):
                yield info

    def _entries(self, folder: str) -> Sequence[os.DirEntry[str]]:
        """The folder's entries that a key can name, in the order of the keys below them: "a-b" before "a/b"."""
        path = self._path(folder) if folder else self._root
        with self._translated("list", folder):
            try:
                with os.scandir(path) as entries:
                    visible = [e for e in entries if not e.is_symlink() and is_key(_join(folder, e.name))]
            except _ABSENT:
                return []
        return sorted(visible, key=lambda entry: entry.name + "/" if entry.is_dir() else entry.name)


def _etag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _info(key: str, stat: Callable[[], os.stat_result]) -> ObjectInfo | None:
    try:
        found = stat()
    except FileNotFoundError:
        # Another process deleted it since it was seen.
        return None
    modified = datetime.fromtimestamp(found.st_mtime, UTC)
    return ObjectInfo(key, found.st_size, modified, f"{found.st_mtime_ns}-{found.st_size}-{found.st_ino}")


def _make_parent(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError from None


def _sweep(folder: Path, *, older_than: float) -> None:
    """Removes what killed writers left. A writer that still writes touches its file all the time."""
    for leftover in folder.iterdir():
        if (info := _info(leftover.name, leftover.stat)) and info.last_modified.timestamp() < older_than:
            leftover.unlink(missing_ok=True)

"""The files that hold a model's rows. Their URIs come from manifests and are untrusted."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from resources.errors import BadInput, InfrastructureError
from resources.object_store.names import Uri, parse_uri, shown

_WILDCARD = re.compile(r"[*?]")


@dataclass(frozen=True)
class SourceFile:
    """A file of the lake. `uri` is a local path or an s3:// URI; `fingerprint` changes whenever the bytes change.

    Polars scans it as it is with `glob=False`: a name may hold `[`.
    """

    uri: str
    size: int
    last_modified: datetime
    fingerprint: str


def list_files(uri_glob: str, *, s3_endpoint: str | None = None) -> list[SourceFile]:
    """The files that match, sorted by URI; none if the folder is missing.

    `*` and `?` stand in the last part of the URI only. Names that start with `_` or `.` (markers, half-written files)
    match only a last part that starts with the same sign.
    Raises BadInput for any other URI, InfrastructureError when the folder cannot be read.
    """
    return _list(*_split(uri_glob), s3_endpoint)


def marker_present(uri_glob: str, marker: str, *, s3_endpoint: str | None = None) -> bool:
    """Whether a file named `marker`, such as `_SUCCESS`, lies beside the files of `uri_glob`."""
    if not marker or "/" in marker or _WILDCARD.search(marker):
        raise BadInput(f"The marker {marker!r} is not a file name. Write one such as _SUCCESS.")
    folder, _ = _split(uri_glob)
    return bool(_list(folder, marker, s3_endpoint))


def check_allowed(uri: str, allowed: Sequence[str]) -> None:
    """Raises BadInput unless `uri` is, or lies below, one of the `allowed` URIs.

    Compared part by part, so `s3://lake/ke` does not allow `s3://lake/kenya`; symbolic links of local paths are
    followed first. A manifest's template can be checked as well as the URI that comes out of it.
    """
    parts = _place(parse_uri(uri))
    for prefix in allowed:
        wanted = _place(parse_uri(prefix))
        if parts[: len(wanted)] == wanted:
            return
    raise BadInput(
        f"{shown(uri)} lies outside the allowed sources ({', '.join(allowed) or 'none'}). Move the data there, "
        "or ask the operator of the platform to add its prefix to SCOREWATCH_ALLOWED_SOURCES."
    )


def _place(uri: Uri) -> tuple[str, ...]:
    if uri.scheme == "file":
        return (uri.scheme, *Path(os.path.realpath(uri.local_path)).parts)
    return (uri.scheme, *uri.parts)


def _split(uri_glob: str) -> tuple[Uri, str]:
    """The folder, and the pattern of the names in it."""
    uri = parse_uri(uri_glob)
    if len(uri.parts) < (2 if uri.scheme == "s3" else 1) or uri_glob.endswith("/"):
        raise BadInput(f"{shown(uri_glob)} names no files. Add a last part such as *.parquet.")
    *folder, pattern = uri.parts
    if any(_WILDCARD.search(part) for part in folder):
        raise BadInput(f"{shown(uri_glob)} has * or ? in a folder's name. Only the last part may have them.")
    return Uri(uri.scheme, tuple(folder)), pattern


def _list(folder: Uri, pattern: str, endpoint: str | None) -> list[SourceFile]:
    matches = _matcher(pattern)
    if folder.scheme == "file":
        found = _local_files(folder, matches)
    else:
        found = (file for name, file in _s3_files(folder, pattern, endpoint) if matches(name))
    return sorted(found, key=lambda file: file.uri)


def _matcher(pattern: str) -> Callable[[str], bool]:
    expression = re.compile("".join({"*": ".*", "?": "."}.get(sign, re.escape(sign)) for sign in pattern), re.DOTALL)
    return lambda name: (name[:1] not in ("", "_", ".") or name[:1] == pattern[0]) and bool(expression.fullmatch(name))


def _local_files(folder: Uri, matches: Callable[[str], bool]) -> Iterator[SourceFile]:
    try:
        with os.scandir(folder.local_path) as entries:
            for entry in entries:
                if matches(entry.name) and entry.is_file() and (file := _local_file(entry)):
                    yield file
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise InfrastructureError(f"Could not list {folder}: {error}.") from error


def _local_file(entry: os.DirEntry[str]) -> SourceFile | None:
    try:
        found = entry.stat()
    except FileNotFoundError:
        # Replaced or removed since it was seen: the next look finds it as it is then.
        return None
    return SourceFile(
        uri=entry.path,
        size=found.st_size,
        last_modified=datetime.fromtimestamp(found.st_mtime, UTC),
        fingerprint=f"{found.st_mtime_ns}-{found.st_size}-{found.st_ino}",
    )


def _s3_files(folder: Uri, pattern: str, endpoint: str | None) -> Iterator[tuple[str, SourceFile]]:
    from resources.object_store.s3 import list_pages, s3_call, s3_client  # noqa: PLC0415

    with s3_call("list", str(folder)):
        client = s3_client(endpoint)
    path = f"{folder.key}/" if folder.key else ""
    literal = _WILDCARD.split(pattern)[0]
    for page in list_pages(client, folder.bucket, path + literal, delimiter="/"):
        for found in page.get("Contents", []):
            name = found["Key"].removeprefix(path)
            yield (
                name,
                SourceFile(
                    uri=f"s3://{folder.bucket}/{found['Key']}",
                    size=found["Size"],
                    last_modified=found["LastModified"],
                    fingerprint=found["ETag"].strip('"'),
                ),
            )


def storage_options(uri: str, *, s3_endpoint: str | None = None) -> dict[str, str]:
    """What Polars needs to scan a source file besides its URI; nothing for a local path."""
    if not uri.startswith("s3://"):
        return {}
    from resources.object_store.s3 import s3_storage_options  # noqa: PLC0415

    return s3_storage_options(s3_endpoint)

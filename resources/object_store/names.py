"""Which keys and URIs are allowed: both reach the stores from untrusted manifests."""

from __future__ import annotations

import re
from dataclasses import dataclass

from resources.errors import BadInput

SCHEMES = ("file", "s3")

# S3 allows 1,024 bytes, and the store's own prefix is part of them; 255 is what common file systems allow a name.
_MAX_KEY_BYTES = 900
_MAX_PART_BYTES = 255

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_USER_INFO = re.compile(r"(?<=://)[^/]*@")
_ENCODED_BYTE = re.compile(r"%[0-9a-f]{2}", re.IGNORECASE)
# Encoded dots, slashes, backslashes, percent signs and control characters. Others are honest names on S3: Spark
# writes the colon of a partition value as %3A.
_ENCODED_TRICK = re.compile(r"%(2[ef5]|5c|7f|[01][0-9a-f])", re.IGNORECASE)


def check_key(key: str) -> None:
    """Raises BadInput unless `key` is a relative path of plain parts, none of which starts with a dot."""
    fault = _key_fault(key)
    if fault:
        raise BadInput(
            f"The store key {_cut(key)!r} {fault}. A key is a relative path such as "
            "'results/ke-nano-loan/3.2.0/2026-01-31/psi/0001.json'."
        )


def is_key(key: str) -> bool:
    """Whether `check_key` accepts it; listings leave out what nobody could get."""
    return _key_fault(key) is None


def check_prefix(prefix: str) -> None:
    """Raises BadInput unless `prefix` is empty, or the beginning of a key, with or without a slash at its end."""
    if prefix:
        check_key(prefix.removesuffix("/"))


def _key_fault(key: str) -> str | None:
    # isprintable is false for lone surrogates too, which have no UTF-8 form.
    if not key.isprintable():
        return "holds control or invisible characters"
    if "\\" in key:
        return "holds a backslash"
    if len(key.encode()) > _MAX_KEY_BYTES:
        return f"is longer than {_MAX_KEY_BYTES} bytes"
    return next((fault for part in key.split("/") if (fault := _part_fault(part))), None)


def _part_fault(part: str) -> str | None:
    if not part:
        return "has an empty part"
    if part.startswith("."):
        return "has a part that starts with a dot"
    if len(part.encode()) > _MAX_PART_BYTES:
        return f"has a part that is longer than {_MAX_PART_BYTES} bytes"
    return None


@dataclass(frozen=True)
class Uri:
    """A URI taken apart. For S3 the first part is the bucket. No parts: everything of that scheme."""

    scheme: str
    parts: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.scheme}://{self.local_path if self.scheme == 'file' else '/'.join(self.parts)}"

    @property
    def local_path(self) -> str:
        """The absolute path that a file URI names."""
        return "/" + "/".join(self.parts)

    @property
    def bucket(self) -> str:
        """The bucket that an S3 URI names."""
        return self.parts[0]

    @property
    def key(self) -> str:
        """What an S3 URI names in its bucket; empty for the bucket itself."""
        return "/".join(self.parts[1:])


def parse_uri(uri: str) -> Uri:
    """Takes a `file://` or `s3://` URI apart; one slash at the end is dropped, nothing is decoded.

    Raises BadInput for another scheme, a host in a file URI, an invalid bucket, an empty part, `.` or `..`,
    backslashes, control characters, and percent-encoding that could stand for one of these.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        raise BadInput(f"{_cut(uri)!r} is not a URI. Write file:///absolute/path or s3://bucket/prefix.")
    if scheme not in SCHEMES:
        # The rest is left out: a presigned https URL is a secret.
        raise BadInput(
            f"URIs of the scheme {_cut(scheme)!r} cannot be used. Write file:///absolute/path or s3://bucket/prefix."
        )
    rest = rest.removesuffix("/")
    parts = tuple(rest.split("/")) if rest else ()
    if scheme == "file" and parts:
        if parts[0]:
            raise BadInput(f"{shown(uri)} names a host. Write file:/// with three slashes and an absolute path.")
        parts = parts[1:]
    fault = _uri_fault(scheme, rest, parts)
    if fault:
        raise BadInput(f"{shown(uri)} {fault}.")
    return Uri(scheme, parts)


def _uri_fault(scheme: str, rest: str, parts: tuple[str, ...]) -> str | None:
    if not rest.isprintable() or rest != rest.strip():
        return "holds control characters, or white space at its end"
    if "\\" in rest:
        return "holds a backslash; write slashes"
    if not {"", ".", ".."}.isdisjoint(parts):
        return "has a part that is empty, '.' or '..'; write the path that it stands for"
    if (_ENCODED_BYTE if scheme == "file" else _ENCODED_TRICK).search(rest):
        return "is percent-encoded; write the name as it is, nothing is decoded"
    if scheme == "s3" and parts and not _BUCKET.fullmatch(parts[0]):
        return "has no valid bucket name after s3://"
    return None


def shown(uri: str) -> str:
    """The URI as a message may show it: cut when it is very long, and without a user name and password."""
    return repr(_cut(_USER_INFO.sub("…@", uri)))


def _cut(text: str) -> str:
    return text if len(text) <= 200 else text[:200] + "…"

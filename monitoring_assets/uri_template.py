"""Where a partition's files are: a URI with the partition's date in it, such as `s3://lake/{partition:%Y/%m/%d}/*.parquet`.

A field is `{partition}`, which is `{partition:%Y-%m-%d}`, or `{partition:…}` with plain text and the directives of
`DIRECTIVES`. Templates are untrusted: rendering replaces those directives and nothing else, never by `str.format`.
"""

from __future__ import annotations

import re
from datetime import datetime

from monitoring_assets.partitions import Frequency
from monitoring_assets.problems import Problem, shown

# All of fixed width, so that two partitions cannot come to the same text by where one number ends and the next begins.
DIRECTIVES = "YmdHMjVGuy"
LENGTH_LIMIT = 1024

_FIELD = re.compile(r"\{partition(?::([^{}]*))?\}")
_DIRECTIVE = re.compile(r"%(.?)", re.DOTALL)
_DEFAULT_FORMAT = "%Y-%m-%d"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_GLOB = re.compile(r"[*?\[\]]")
_SAMPLE = datetime(2026, 1, 5)  # noqa: DTZ001 - any wall-clock time will do

# The directives that tell the partitions of a frequency apart. %Y with %V would not: 2024-01-01 and 2024-12-30 are
# both in a week 1 that overlaps 2024. Two-digit years will do, because the calendar spans exactly one hundred.
_DAY = ("Ymd", "ymd", "Yj", "yj", "GVu")
_TELLING: dict[Frequency, tuple[str, ...]] = {
    "hour": tuple(day + "H" for day in _DAY),
    "day": _DAY,
    "week": (*_DAY, "GV"),
    "month": (*_DAY, "Ym", "ym"),
}
_SUGGESTED: dict[Frequency, str] = {
    "hour": "{partition:%Y/%m/%d/%H}",
    "day": "{partition:%Y/%m/%d}",
    "week": "{partition:%G/%V}",
    "month": "{partition:%Y/%m}",
}


def problem(template: str) -> Problem | None:
    """What keeps `template` from being a URI template, the first thing found; None if nothing does."""
    if len(template) > LENGTH_LIMIT or not template.isprintable() or "\\" in template:
        message = f"{shown(template)} is too long, or holds a backslash or a character that cannot be printed"
        return Problem("", message, f"write at most {LENGTH_LIMIT} printable characters")
    return _field_problem(template) or _place_problem(template) or _path_problem(render(template, _SAMPLE))


def _field_problem(template: str) -> Problem | None:
    formats = [match[1] for match in _FIELD.finditer(template) if match[1] is not None]
    wrong = [found[0] for text in formats for found in _DIRECTIVE.finditer(text) if found[1] not in [*DIRECTIVES]]
    if wrong:
        known = " ".join(f"%{letter}" for letter in DIRECTIVES)
        return Problem("", f"{shown(wrong[0])} in {shown(template)} is not supported", f"write one of {known}")
    rest = _FIELD.sub("", template)
    if re.search(r"[{}]", rest):
        message = f"{shown(template)} has a brace that is no partition field"
        return Problem("", message, "write {partition} or, say, {partition:%Y/%m/%d}")
    if "%" in rest:
        return Problem("", f"{shown(template)} has a % outside a field", "write {partition:%Y/%m/%d} for dates")
    if rest == template:
        message = f"{shown(template)} has no partition field, so every partition would read the same files"
        return Problem("", message, "write the place of the date as, say, {partition:%Y/%m/%d}")
    return None


def _place_problem(template: str) -> Problem | None:
    scheme, _, rest = template.partition("://")
    place, slash, _ = rest.partition("/")
    if scheme == "s3" and slash and _BUCKET.fullmatch(place):
        return None
    if scheme == "file" and slash and not place:
        return None
    return Problem(
        "", f"{shown(template)} is not in S3 or on a disk", "write s3://bucket/path or file:///absolute/path"
    )


def _path_problem(uri: str) -> Problem | None:
    *folders, name = uri.partition("://")[2].split("/")
    if ".." in (*folders, name):
        return Problem("", f"{shown(uri)} leaves its folder by ..", "write the path without ..")
    if any(_GLOB.search(folder) for folder in folders):
        message = f"{shown(uri)} has * ? [ or ] in the name of a folder"
        return Problem("", message, "write patterns in the last part only, such as …/*.parquet")
    if not name:
        return Problem("", f"{shown(uri)} is a folder", "write the files in it, such as …/*.parquet")
    return None


def tells_apart(template: str, every: Frequency) -> bool:
    """Whether a checked template gives each partition of this frequency a URI of its own."""
    formats = [match[1] if match[1] is not None else _DEFAULT_FORMAT for match in _FIELD.finditer(template)]
    found = {directive[1] for text in formats for directive in _DIRECTIVE.finditer(text)}
    return any(found.issuperset(telling) for telling in _TELLING[every])


def suggested_field(every: Frequency) -> str:
    """A partition field that tells the partitions of this frequency apart."""
    return _SUGGESTED[every]


def render(template: str, moment: datetime) -> str:
    """The URI of the partition that begins at the wall-clock time `moment`, for a template that `problem` accepts."""

    def fill(field: re.Match[str]) -> str:
        text = field[1] if field[1] is not None else _DEFAULT_FORMAT
        return _DIRECTIVE.sub(lambda directive: moment.strftime(directive[0]), text)

    return _FIELD.sub(fill, template)

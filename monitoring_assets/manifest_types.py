"""The kinds of value that a manifest holds, each with the rule that its text must meet and what to write instead.

Everything here checks untrusted text: the patterns are linear, and nothing is opened, resolved or rendered.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Annotated, Any, NoReturn
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator
from pydantic_core import PydanticCustomError

from monitoring_assets import uri_template
from monitoring_assets.problems import Problem, shown

PROBLEM_ERROR = "scorewatch"
TEXT_LIMIT = 200
MAX_LINKS = 20

_MODEL = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_VERSION = re.compile(r"[0-9a-z]+([.-][0-9a-z]+)*")
_PATH_PART = re.compile(r"[^/\\:*?\[\]{}]+")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,254}@sha256:[0-9a-f]{64}")
_MEMORY = re.compile(r"[1-9][0-9]{0,5}(Mi|Gi)")
_LINK_NAME = re.compile(r"[A-Za-z0-9_-]{1,50}")
_URL = re.compile(r"https?://[^\s\"'<>\\^`{|}]{1,2000}")


def refuse(*problems: Problem) -> NoReturn:
    """Ends a pydantic validator with one error that carries all `problems`; their keys are below the value checked."""
    text = "; ".join(f"{problem.message} ({problem.fix})" for problem in problems)
    raise PydanticCustomError(PROBLEM_ERROR, "{text}", {"text": text, "problems": problems})


def _checked(find: Callable[[str], Problem | None]) -> AfterValidator:
    def check(value: str) -> str:
        problem = find(value)
        if problem is not None:
            refuse(problem)
        return value

    return AfterValidator(check)


def _text_problem(value: str) -> Problem | None:
    if not value.strip():
        return Problem("", "is empty", "write some text")
    if len(value) > TEXT_LIMIT:
        return Problem("", f"is {len(value)} characters long", f"write at most {TEXT_LIMIT} characters")
    if not value.isprintable():
        return Problem("", f"{shown(value)} holds characters that cannot be printed", "write it without them")
    return None


def _column_problem(value: str) -> Problem | None:
    # Polars selects columns by such patterns, and has no way to quote them.
    if value == "*" or (value.startswith("^") and value.endswith("$")):
        return Problem("", f"{shown(value)} is read as a pattern, not as a name", "rename the column in the data")
    return _text_problem(value)


def _model_problem(value: str) -> Problem | None:
    if len(value) <= 63 and _MODEL.fullmatch(value):
        return None
    # A double hyphen would make two group names alike: see Manifest.slug.
    suggestion = re.sub(r"[^a-z0-9]+", "-", value[:200].lower())[:63].strip("-") or "ke-nano-loan"
    message = f"{shown(value)} is not 1 to 63 of a-z, 0-9 and single hyphens between them"
    return Problem("", message, f"write {suggestion}")


def _version_problem(value: str) -> Problem | None:
    if len(value) <= 63 and _VERSION.fullmatch(value):
        return None
    plain = re.sub(r"[^0-9a-z.]+", "-", value[:200].lower())
    suggestion = re.sub(r"[.-]*-[.-]*|\.{2,}", "-", plain)[:63].strip(".-") or "1.0.0"
    message = f"{shown(value)} is not 1 to 63 of a-z and 0-9 with single dots or hyphens between them"
    return Problem("", message, f'write "{suggestion}"')


def _relative_path_problem(value: str) -> Problem | None:
    parts = value.split("/")
    inside = all(_PATH_PART.fullmatch(part) and part not in (".", "..") for part in parts)
    if inside and len(value) <= 512 and value.isprintable():
        return None
    message = f"{shown(value)} is not a path inside the version's folder"
    return Problem(
        "", message, "write the name of a file beside model.yaml: no leading /, no .., no \\, no scheme, no *"
    )


def _file_name_problem(value: str) -> Problem | None:
    if "/" in value or _relative_path_problem(value):
        return Problem("", f"{shown(value)} is not a plain file name", "write a name such as _SUCCESS, without a path")
    return None


def _image_problem(value: str) -> Problem | None:
    if _IMAGE.fullmatch(value):
        return None
    message = f"{shown(value)} is not an image pinned by its digest"
    return Problem("", message, "write name@sha256: and the 64 hex digits of the digest")


def _memory_problem(value: str) -> Problem | None:
    if _MEMORY.fullmatch(value):
        return None
    return Problem("", f"{shown(value)} is not an amount of memory", "write a whole number of Mi or Gi, such as 2Gi")


def _uri_problem(value: str) -> Problem | None:
    return uri_template.problem(value)


def _links(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        refuse(
            Problem("", "is not a mapping of names to addresses", 'write links: {runbook: "https://wiki.example/x"}')
        )
    if len(value) > MAX_LINKS:
        refuse(Problem("", f"holds {len(value)} links", f"write at most {MAX_LINKS}"))
    problems = [problem for name, url in value.items() if (problem := _link_problem(name, url))]
    if problems:
        refuse(*problems)
    return dict(value)


def _link_problem(name: Any, url: Any) -> Problem | None:
    if not isinstance(name, str) or not _LINK_NAME.fullmatch(name):
        return Problem(
            "", f"the name {shown(name)} is not 1 to 50 of letters, digits, _ and -", "write one such as runbook"
        )
    if isinstance(url, str) and url.isprintable() and _URL.fullmatch(url) and _has_plain_host(url):
        return None
    message = f"{shown(url)} is not a web address"
    return Problem(name, message, "write one that begins with https:// or http:// and holds no user name or password")


def _has_plain_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:  # a bracket that is no IPv6 address
        return False
    return bool(parts.hostname) and "@" not in parts.netloc


def _special_value(value: Any) -> float | str:
    if isinstance(value, str):
        # The empty text is a common special value, so it is allowed here and nowhere else.
        problem = _text_problem(value) if value else None
        if problem:
            refuse(problem)
        return value
    return _finite(value)


def _label_value(value: Any) -> bool | int | float | str:
    if isinstance(value, (bool, int)):
        return value
    return _special_value(value)


def _finite(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        refuse(Problem("", f"{_kind(value)} is not a number or text", "write a number, or text in quotes"))
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        refuse(Problem("", "is not a finite number", "write a finite number"))
    return number


def _score_range(value: Any) -> tuple[float, float]:
    example = "write two numbers, the lower one first, such as range: [300, 850]"
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        refuse(Problem("", f"{_kind(value)} is not a list of two numbers", example))
    if any(isinstance(each, str) for each in value):
        refuse(Problem("", f"{shown(value)} holds text", example))
    low, high = _finite(value[0]), _finite(value[1])
    if not (low < high and math.isfinite(high - low)):
        refuse(Problem("", f"{shown(value)} is not an interval", example))
    return low, high


def _kind(value: Any) -> str:
    return "nothing" if value is None else shown(value)


ModelName = Annotated[str, _checked(_model_problem)]
Version = Annotated[str, _checked(_version_problem)]
Text = Annotated[str, _checked(_text_problem)]
ColumnName = Annotated[str, _checked(_column_problem)]
RelativePath = Annotated[str, _checked(_relative_path_problem)]
FileName = Annotated[str, _checked(_file_name_problem)]
ImageDigest = Annotated[str, _checked(_image_problem)]
Memory = Annotated[str, _checked(_memory_problem)]
UriTemplate = Annotated[str, _checked(_uri_problem)]
Links = Annotated[dict[str, str], BeforeValidator(_links)]
SpecialValue = Annotated[float | str, BeforeValidator(_special_value)]
LabelValue = Annotated[bool | int | float | str, BeforeValidator(_label_value)]
ScoreRange = Annotated[tuple[float, float], BeforeValidator(_score_range)]

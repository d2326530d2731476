"""Turns pydantic's errors about a manifest into problems in the words of the file that the person wrote."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from monitoring_assets.manifest import Manifest
from monitoring_assets.manifest_types import PROBLEM_ERROR
from monitoring_assets.problems import Problem, bare, shown

Path = tuple[str | int, ...]

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]{1,63}")
_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "date_type": "a date",
    "tuple_type": "a list",
    "model_type": "a mapping",
}
_BOUNDS = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}


class Written(NamedTuple):
    """How a value stands in the file: its line, from 1, and its text if it is a scalar without quotes."""

    line: int
    plain: str | None


def dotted(path: Path) -> str:
    """A path in the file as one word: `features.0.name`; `file` for the whole of it. Odd keys are shown quoted."""
    return ".".join(part if _PLAIN_KEY.fullmatch(part) else shown(part) for part in map(str, path)) or "file"


def problems_of(error: ValidationError, written: Mapping[Path, Written]) -> Iterator[Problem]:
    """Every problem in a validation error of `Manifest`, in words; `written` tells how each path stands in the file.

    Lazy, because finding the key that an unknown one may have meant takes its time and there may be many thousands.
    """
    for details in error.errors(include_url=False):
        path = details["loc"]
        place = written.get(path)
        for below, message, fix in _worded(details, place.plain if place else None):
            inner = (*path, *(int(part) if part.isdecimal() else part for part in below.split(".") if part))
            nearest = next((found for end in range(len(inner), 0, -1) if (found := written.get(inner[:end]))), None)
            yield Problem(dotted(inner), f"{message} (line {nearest.line})" if nearest else message, fix)


def _worded(details: ErrorDetails, plain: str | None) -> Iterator[Problem]:
    kind, path, context = details["type"], details["loc"], details.get("ctx", {})
    if kind == PROBLEM_ERROR:
        yield from context["problems"]
    elif kind == "missing":
        yield Problem("", "is missing", _example(path))
    elif kind == "extra_forbidden":
        yield Problem("", "is an unknown key", _known_keys(path))
    elif kind == "literal_error":
        yield Problem("", _got(details, plain), f"write {context['expected']}")
    elif kind in _BOUNDS:
        words, bound = _BOUNDS[kind]
        yield Problem("", _got(details, plain), f"write a number that is {words} {context[bound]:g}")
    elif kind in ("too_long", "too_short"):
        limit = f"at most {context['max_length']}" if kind == "too_long" else f"at least {context['min_length']}"
        or_nothing = " or leave the key out" if kind == "too_short" else ""
        yield Problem("", f"holds {context['actual_length']} items", f"write {limit}{or_nothing}")
    else:
        yield Problem("", _got(details, plain), _right_type(details, plain))


def _got(details: ErrorDetails, plain: str | None) -> str:
    value = details["input"]
    if value is None:
        return "got no value"
    if isinstance(value, bool):
        return f"got the word {plain}, which YAML reads as a truth value"
    if isinstance(value, (int, float, date)):
        return f"got the {'date' if isinstance(value, date) else 'number'} {bare(plain or str(value))}"
    kind = "text" if isinstance(value, str) else "mapping" if isinstance(value, dict) else "list"
    return f"got the {kind} {shown(value)}"


def _right_type(details: ErrorDetails, plain: str | None) -> str:
    kind, path, value = details["type"], details["loc"], details["input"]
    if kind == "string_type" and plain is not None and value is not None:
        return f"write it in quotes: {_name(path)}{_quoted(plain)}"
    if kind in ("int_type", "float_type", "date_type") and isinstance(value, str) and plain is None:
        return f"write {_EXPECTED[kind]} without quotes{_such_as(path)}"
    expected = _EXPECTED.get(kind, "another value")
    field = _field(path)
    or_nothing = " or leave the key out" if value is None and field and not field.is_required() else ""
    return f"write {expected}{_such_as(path)}{or_nothing}"


def _quoted(text: str) -> str:
    return json.dumps(text if len(text) <= 60 else text[:60] + "…", ensure_ascii=not text.isprintable())


def _name(path: Path) -> str:
    return f"{path[-1]}: " if path and isinstance(path[-1], str) else ""


def _field(path: Path) -> FieldInfo | None:
    parent = _model_at(path[:-1])
    return _fields(parent).get(str(path[-1])) if parent and path else None


def _example(path: Path) -> str:
    field = _field(path)
    return f"write a line such as {field.examples[0]}" if field and field.examples else "write it"


def _such_as(path: Path) -> str:
    field = _field(path)
    return f", such as {field.examples[0]}" if field and field.examples else ""


def _known_keys(path: Path) -> str:
    parent = _model_at(path[:-1])
    known = list(_fields(parent)) if parent else []
    close = difflib.get_close_matches(str(path[-1]).lower(), known, n=1)
    meant = f"write {close[0]} instead" if close else "leave it out"
    return f"{meant}; the known keys are {', '.join(known)}"


def _model_at(path: Path) -> type[BaseModel] | None:
    model: type[BaseModel] | None = Manifest
    for part in path:
        if isinstance(part, str) and model is not None:
            field = _fields(model).get(part)
            model = _section(field.annotation) if field else None
    return model


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _section(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for each in get_args(annotation) if (found := _section(each))), None)

"""Reads `model.yaml` from untrusted bytes and says, key by key, what to write instead of what is wrong.

The YAML is a safe subset, read event by event: one document, mappings, lists and scalars of YAML 1.2's core schema
(`no` and `12:30` are text) plus dates; no aliases, anchors, tags, repeated keys or keys that are not text. Nothing is
ever constructed but dict, list, str, int, float, bool, date and None.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import date
from itertools import chain, islice
from typing import Any

import yaml
from pydantic import ValidationError

from monitoring_assets.manifest import Manifest
from monitoring_assets.manifest_wording import Path, Written, dotted, problems_of
from monitoring_assets.problems import Problem, bare, shown
from resources.errors import BadInput

SIZE_LIMIT = 256 * 1024
DEPTH_LIMIT = 20
PROBLEM_LIMIT = 200
NUMBER_LIMIT = 100  # characters; beyond it a number is text, which no key that wants a number accepts

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_WORDS = dict.fromkeys(("", "~", "null", "Null", "NULL"))
_WORDS |= dict.fromkeys(("true", "True", "TRUE"), True) | dict.fromkeys(("false", "False", "FALSE"), False)
# Text that begins with a superfluous zero is an identifier more often than a number.
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


class ManifestError(BadInput):
    """A manifest that cannot be accepted. `problems` holds everything found, up to `PROBLEM_LIMIT`."""

    def __init__(self, where: str, problems: Iterable[Problem]) -> None:
        found = iter(problems)
        self.problems = tuple(islice(found, PROBLEM_LIMIT))
        place = bare(where, 400)
        lines = [f"{place}: {key}: {message}; {fix}" for key, message, fix in self.problems]
        if next(found, None):
            lines.append(f"{place}: there are more problems than these {PROBLEM_LIMIT}; correct them first")
        super().__init__("\n".join(lines))


def refuse_large(size: int, *, where: str) -> None:
    """Raises `ManifestError` for a file of so many bytes. Asked before it is read, it costs no memory."""
    if size > SIZE_LIMIT:
        raise ManifestError(where, [_too_large(size)])


def load(data: bytes, *, where: str) -> dict[str, Any]:
    """The mapping that a YAML document holds. Raises `ManifestError` that begins with `where` for anything else."""
    content, reader = _read(data, where)
    if reader.problems:
        raise ManifestError(where, reader.problems)
    return content


def parse_manifest(data: bytes, *, where: str) -> Manifest:
    """The manifest in `data`. Raises `ManifestError`, and nothing else whatever the bytes, with every problem found."""
    content, reader = _read(data, where)
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        raise ManifestError(where, chain(reader.problems, problems_of(error, reader.written))) from None
    if reader.problems:
        raise ManifestError(where, reader.problems)
    return manifest


def _read(data: bytes, where: str) -> tuple[dict[str, Any], _Reader]:
    reader = _Reader()
    try:
        return reader.document(_text(data)), reader
    except _RefusedError as error:
        raise ManifestError(where, [*reader.problems, error.problem]) from None


class _RefusedError(Exception):
    def __init__(self, key: str, message: str, fix: str) -> None:
        super().__init__(message)
        self.problem = Problem(key, message, fix)


def _too_large(size: int) -> Problem:
    message = f"has {size} bytes, and a manifest may have {SIZE_LIMIT}"
    return Problem("file", message, "leave features out, so that they are inferred from the reference")


def _text(data: bytes) -> str:
    if len(data) > SIZE_LIMIT:
        raise _RefusedError(*_too_large(len(data)))
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise _RefusedError("file", f"is not UTF-8 from byte {error.start} on", "save it as UTF-8 text") from None


class _Reader:
    """Builds Python values from YAML events, noting where each was written and what can be told without stopping."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.written: dict[Path, Written] = {}

    def document(self, text: str) -> dict[str, Any]:
        try:
            content = self._single(yaml.parse(text, Loader=_LOADER))
        except yaml.YAMLError as error:
            raise _syntax(error) from None
        except (ValueError, OverflowError):  # PyYAML's Python scanner, for an escape beyond Unicode or a huge version
            raise _RefusedError("file", "holds an escape or a number that is out of bounds", "write it out") from None
        if not isinstance(content, dict):
            what = "is empty" if content is None else f"holds {shown(content)} where a mapping is expected"
            raise _RefusedError("file", what, "write keys and values, beginning with apiVersion: scorewatch/v1")
        return content

    def _single(self, events: Iterator[yaml.Event]) -> Any:
        content, documents = None, 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise _refused(event, "begins a second document", "keep one manifest a file, without --- between")
                content = self._value(next(events), events, ())
        return content

    def _value(self, event: yaml.Event, events: Iterator[yaml.Event], path: Path) -> Any:
        if isinstance(event, yaml.AliasEvent):
            raise _refused(event, "uses an alias (*)", "write the value out where it is used", path)
        if getattr(event, "anchor", None) is not None:
            raise _refused(event, "uses an anchor (&)", "leave the anchor out, or put the text in quotes", path)
        if getattr(event, "tag", None) is not None:
            raise _refused(event, f"uses the tag {shown(event.tag)}", "leave the tag out", path)  # type: ignore[attr-defined]
        line = _line(event)
        if isinstance(event, yaml.ScalarEvent):
            plain = event.value if event.implicit[0] else None
            self.written[path] = Written(line, plain)
            return self._characters(event.value, path, line) if plain is None else _scalar(plain)
        if len(path) >= DEPTH_LIMIT:
            raise _refused(event, f"is nested more than {DEPTH_LIMIT} levels deep", "write it flat", path)
        self.written[path] = Written(line, None)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._list(events, path)
        return self._mapping(events, path)

    def _list(self, events: Iterator[yaml.Event], path: Path) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(self._value(event, events, (*path, len(items))))
        return items

    def _mapping(self, events: Iterator[yaml.Event], path: Path) -> dict[str, Any]:
        items: dict[str, Any] = {}
        lines: dict[str, int] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            line = _line(event)
            key = self._value(event, events, (*path, "?"))
            below = (*path, key if isinstance(key, str) else "?")
            # Of a repeated key the first value counts while the rest of the file is looked at.
            repeated = isinstance(key, str) and key in items
            value = self._value(next(events), events, (*path, "?") if repeated else below)
            if not isinstance(key, str):
                text = event.value if isinstance(event, yaml.ScalarEvent) else key
                fix = "write a key that is text; put it in quotes if it looks like a number, a date or true"
                self.problems.append(Problem(dotted(path), f"has the key {shown(text)} (line {line})", fix))
            elif repeated:
                message = f"is written in line {lines[key]} and again in line {line}"
                self.problems.append(Problem(dotted(below), message, "keep one of the two"))
            else:
                items[key], lines[key] = value, line
        return items

    def _characters(self, text: str, path: Path, line: int) -> str:
        try:
            text.encode()
        except UnicodeEncodeError:
            message = f"{shown(text)} holds half a character (line {line})"
            self.problems.append(Problem(dotted(path), message, "write the character itself"))
            return text.encode(errors="replace").decode()
        return text


def _scalar(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    try:
        if _DATE.fullmatch(text):
            return date.fromisoformat(text)
    except ValueError:  # 2026-02-30 is text, which no key that wants a date accepts
        return text
    return text if len(text) > NUMBER_LIMIT else _number(text)


def _number(text: str) -> int | float | str:
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return float(text.replace(".", "")) if _NOT_FINITE.fullmatch(text) else text


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


def _refused(event: yaml.Event, message: str, fix: str, path: Path = ()) -> _RefusedError:
    return _RefusedError(dotted(path), f"{message} (line {_line(event)})", fix)


def _syntax(error: yaml.YAMLError) -> _RefusedError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    reason = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read"
    place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
    fix = "indent with spaces only, close quotes and brackets, and put text that holds : # { [ or % in quotes"
    return _RefusedError("file", f"is not YAML: {bare(str(reason))}{place}", fix)

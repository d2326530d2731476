"""How verbs print: JSON for machines, tables and progress for people."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

QUIET_S = 2.0
"""Progress is shown of what takes longer."""

Item = TypeVar("Item")

STYLES = {
    "ok": "green",
    "warn": "yellow",
    "breach": "red",
    "error": "red",
    "quarantined": "red",
    "stale": "magenta",
    "onboarding": "cyan",
    "insufficient_data": "dim",
    "retired": "dim",
}


def echo_json(value: Any) -> None:
    """One JSON document on standard output."""
    click.echo(json.dumps(value, indent=None, sort_keys=True, default=str))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on standard output; cells are plain text (names come from other people's data)."""
    built = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        built.add_column(column, overflow="fold")
    for row in rows:
        built.add_row(*(Text(plain(cell), style=STYLES.get(cell, "")) for cell in row))
    Console().print(built)


def plain(text: str) -> str:
    """Without what a terminal would act upon."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "�" for letter in text)


@contextmanager
def working(what: str) -> Iterator[None]:
    """A spinner on standard error while something takes its time; nothing where no terminal is."""
    with error_console().status(escape(what)):
        yield


def progress(what: str, items: Iterable[Item], total: int) -> Iterator[Item]:
    """The items, with a bar on standard error once they have taken a while; nothing where no terminal is."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console, begun = error_console(), time.monotonic()
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task(what, total=total)
    try:
        for item in items:
            yield item
            # It may be large, and the next one is made before the loop lets go of it.
            del item
            bar.advance(task)
            if time.monotonic() - begun > QUIET_S:
                bar.start()
    finally:
        bar.stop()


def error_console() -> Console:
    """Where progress goes, so that standard output stays clean."""
    return Console(file=sys.stderr)

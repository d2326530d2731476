"""Processes that a test looks at, any of which may end at that moment."""

from __future__ import annotations

import psutil


def command_line(process: psutil.Process) -> list[str]:
    """The words of its command; none if it has ended."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []

"""The past of a version that is still to be made: in stretches, the newest first, what dies again and again last."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from monitoring_assets.arrivals.agenda import TOGETHER, TRIES, Attempt


class Stretch(NamedTuple):
    """A stretch of history, and what is not done of it, oldest first."""

    partitions: Sequence[str]
    undone: list[str]

    @property
    def name(self) -> str:
        """Its first and last partition, whatever is done of it."""
        return f"{self.partitions[0]}/{self.partitions[-1]}"


@dataclass
class History:
    """The stretches that are undone. A run does one; ``chunk`` partitions at most."""

    stretches: list[Stretch] = field(default_factory=list)
    given_up: set[str] = field(default_factory=set)
    _split: set[str] = field(default_factory=set)
    _rests: dict[str, datetime] = field(default_factory=dict)

    def take_stock(self, past: Sequence[str], chunk: int, through: Collection[str], errors: Collection[str]) -> None:
        """``past``, but for what a run has been through; ``errors`` are partitions that killed every run of theirs."""
        alone = [each for each in past if each in errors and each not in through]
        known = {*through, *self.given_up, *alone}
        found = [
            stretch
            for end in range(len(past), 0, -chunk)
            for stretch in self._cut(past[max(0, end - chunk) : end], known)
        ]
        found += [Stretch([each], [each]) for each in reversed(alone)]
        self.stretches = sorted(found, key=lambda each: each.name in self._rests)

    def _cut(self, partitions: Sequence[str], known: Collection[str]) -> Iterator[Stretch]:
        found = Stretch(partitions, [each for each in partitions if each not in known])
        if found.name in self._split and len(found.undone) > 1:
            half = len(partitions) // 2
            yield from self._cut(partitions[half:], known)
            yield from self._cut(partitions[:half], known)
        elif found.undone:
            yield found

    @property
    def waiting(self) -> set[str]:
        """Everything that is undone."""
        return {partition for stretch in self.stretches for partition in stretch.undone}

    def rests(self, now: datetime) -> bool:
        """Whether all that is left died, or was stopped, not long enough ago."""
        until = self._rests.get(self.stretches[0].name) if self.stretches else None
        return until is not None and until > now

    def put_off(self, found: Attempt | None, now: datetime) -> bool:
        """Whether others go first, because runs of the newest stretch die or were stopped.

        Of one that was split, because one of its partitions may be to blame, the newer half is next.
        """
        if found is None or found.state == "running" or (found.state == "failed" and found.runs < TOGETHER):
            return False
        stretch = self.stretches[0]
        if found.state == "failed" and len(stretch.undone) > 1:
            self._split.add(stretch.name)
            self.stretches[:1] = self._cut(stretch.partitions, set(stretch.partitions).difference(stretch.undone))
            return True
        if found.due(now) or (found.state == "failed" and found.runs < TRIES):
            return False
        self._rests[stretch.name] = found.due_at or now
        self.stretches.append(self.stretches.pop(0))
        return True

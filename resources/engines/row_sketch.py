"""Duplicates and repeats of rows, from hashes that are collected while the rows pass by once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

MAX_KEYS = 5_000_000
SKETCH = 4096


class RowSketch:
    """Collects the key hash and the row hash of every row of a partition.

    Duplicates are counted on all rows up to five million, and beyond on a sample of keys (a hash threshold, so that
    all rows of a sampled key are in it). ``sketch`` keeps the smallest distinct row hashes: two partitions' sketches
    tell the share of rows that they have in common.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.null_keys = 0
        self._threshold = np.uint64(2**64 - 1)
        self._keys: list[Hashes] = []
        self._rows: list[Hashes] = []
        self._held = 0

    def add(self, key_hashes: Hashes, row_hashes: Hashes, null_keys: int) -> None:
        """Take in one batch of rows; both arrays have one entry a row, null keys left out of the first."""
        self.rows += len(row_hashes)
        self.null_keys += null_keys
        for held, hashes in ((self._keys, key_hashes), (self._rows, row_hashes)):
            held.append(hashes[hashes <= self._threshold])
        self._held = max(sum(map(len, self._keys)), sum(map(len, self._rows)))
        while self._held > MAX_KEYS:
            self._threshold = np.uint64(int(self._threshold) // 2)
            self._keys = [hashes[hashes <= self._threshold] for hashes in self._keys]
            self._rows = [hashes[hashes <= self._threshold] for hashes in self._rows]
            self._held = max(sum(map(len, self._keys)), sum(map(len, self._rows)))

    def duplicate_keys(self) -> int:
        """Rows whose key an earlier row has (in the sample, where there is one)."""
        keys = _joined(self._keys)
        return len(keys) - len(np.unique(keys))

    def duplicate_row_share(self) -> float:
        """Share of the rows that equal an earlier row in every feature; 0 without rows."""
        rows = _joined(self._rows)
        return (len(rows) - len(np.unique(rows))) / len(rows) if len(rows) else 0.0

    def sketch(self) -> Hashes:
        """The smallest distinct row hashes, sorted, at most ``SKETCH``."""
        return np.unique(_joined(self._rows))[:SKETCH]


def repeated_share(sketch: Hashes, earlier: Hashes) -> float:
    """Estimated share of the distinct rows of ``sketch`` that ``earlier`` has too; 0 when either is empty.

    Only hashes that both sketches would have kept are compared (Broder's resemblance, as a containment).
    """
    if not len(sketch) or not len(earlier):
        return 0.0
    limits = [hashes[-1] for hashes in (sketch, earlier) if len(hashes) == SKETCH]
    comparable = sketch[sketch <= min(limits)] if limits else sketch
    return float(np.isin(comparable, earlier).mean()) if len(comparable) else 0.0


def _joined(parts: list[Hashes]) -> Hashes:
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.uint64)

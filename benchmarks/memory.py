"""Peak memory of counting 100 million rows of 20 columns: it must not grow with the rows.

Writes about 13 GB of Parquet to the temporary directory, and removes it. A tenth of the rows is counted as well, to
show the growth.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.distribution import REFERENCE_ROWS, child, cpu_s, rows

FILES, FILE_ROWS = 20, 5_000_000
COLUMNS = 14, 3, 2


def run() -> dict[str, float]:
    """Peak GiB, and CPU seconds, of the counting process."""
    generator = np.random.default_rng(20260102)
    with tempfile.TemporaryDirectory(prefix="scorewatch-benchmark-") as folder:
        reference = Path(folder) / "reference.parquet"
        rows(generator, REFERENCE_ROWS, *COLUMNS).write_parquet(reference)
        paths = [Path(folder) / f"part-{number:05d}.parquet" for number in range(FILES)]
        for path in paths:
            rows(generator, FILE_ROWS, *COLUMNS).write_parquet(path, compression="zstd", statistics=False)
        tenth = child("count", reference, paths[: FILES // 10])
        whole = child("count", reference, paths)
    return {
        "memory.peak_gib_100m_20": whole.peak_gib,
        "memory.peak_gib_10m_20": tenth.peak_gib,
        "memory.cpu_s_100m_20": cpu_s(whole),
    }

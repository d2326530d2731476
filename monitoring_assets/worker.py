"""The process of one run, started ahead of it: what takes seconds to import is there when the run comes.

The launcher writes the run as one line to standard input. Nothing comes, and the process ends, when the launcher does.
"""

from __future__ import annotations

import importlib
import json
import os
import sys

# Of everything that a run may need, what is slow to import.
HEAVY = (
    "dagster._cli",
    "monitoring_assets.definitions.models",
    "monitoring_assets.expectations.suite",
    "resources.engines.onnx_model",
)


def main() -> None:
    """Wait for a run, and be the process that executes it."""
    for name in HEAVY:
        importlib.import_module(name)
    line = sys.stdin.readline()
    if line:
        order = json.loads(line)
        os.environ["SCOREWATCH_ONLY"] = order["only"]
        sys.argv = ["dagster", *order["arguments"]]
        from dagster._cli import main as dagster  # noqa: PLC0415

        dagster()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()

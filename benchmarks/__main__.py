"""``python -m benchmarks NAME [--json]``: run one benchmark and print its figures."""

from __future__ import annotations

import argparse
import importlib
import json

from rich.console import Console
from rich.table import Table

MODULES = ("airflow", "backfill", "backtest", "detect", "distribution", "fleet", "memory", "onboarding", "workspace")


def main() -> None:
    """Run the benchmark that the command line names; its module's ``run`` gives id → number."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=MODULES)
    parser.add_argument("--json", action="store_true", help="print one flat object, id to number")
    arguments = parser.parse_args()
    figures: dict[str, float] = importlib.import_module(f"benchmarks.{arguments.name}").run()
    if arguments.json:
        print(json.dumps(figures))
        return
    table = Table("id", "figure")
    for name, figure in figures.items():
        table.add_row(name, f"{figure:.3g}")
    Console().print(table)


if __name__ == "__main__":
    main()

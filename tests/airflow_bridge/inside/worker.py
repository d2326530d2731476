"""Calls functions of the modules beside it, as lines of JSON on standard input ask. Runs in Airflow's environment."""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback


def serve() -> None:
    # Airflow logs to standard output; the answers have one of their own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        asked = json.loads(line)
        module, name = asked["function"].split(".")
        try:
            answer = {"result": getattr(importlib.import_module(module), name)(**asked["arguments"])}
        except Exception:
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve()

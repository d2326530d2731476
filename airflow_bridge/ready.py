"""Where the store says that a partition's data is there: whoever sees it arrive writes it, and runs wait for it."""

from __future__ import annotations

import re

from resources.errors import BadInput

DONE = b"done"
"""The object's content when there is nothing left to do for a run that waits; anything else means that there is."""

_PARTITION = re.compile(r"[A-Za-z0-9][A-Za-z0-9:_-]{0,63}")


def ready_key(dag_id: str, partition: str) -> str:
    """The key of the object whose presence means: the DAG's partition has landed, and does not grow any more.

    Raises BadInput for what cannot be the key of a time partition.
    """
    if not _PARTITION.fullmatch(partition):
        raise BadInput(f"{partition[:100]!r} is not the key of a partition. Write one such as 2026-01-31.")
    return f"airflow/ready/{dag_id}/{partition.replace(':', '-')}"

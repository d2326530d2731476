"""A process that the store's tests start: says "ready", waits for a line, acts, and says what came of it."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

from resources.object_store import ObjectStore, open_store


def say(what: object) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def create(store: ObjectStore, key: str, count: str) -> None:
    """Tries to create `count` objects; says how many it did."""
    say(sum(store.put_if_absent(f"{key}/{number}", b"mine") for number in range(int(count))))


def increment(store: ObjectStore, key: str, count: str) -> None:
    """Adds `count` to a counter, by one each time; says how often it lost."""
    lost = 0
    for _ in range(int(count)):
        while True:
            found = store.get(key)
            value = int(found.data) if found else 0
            if store.compare_and_swap(key, str(value + 1).encode(), found.etag if found else None):
                break
            lost += 1
    say(lost)


def churn(store: ObjectStore, key: str, size: str) -> None:
    """Writes objects of one repeated byte in every way there is, until it is killed; a line after each write."""
    source = Path(sys.argv[-1])
    for number in itertools.count():
        data = bytes([number % 256]) * int(size)
        store.put(f"{key}/put", data)
        say("put")
        store.put_if_absent(f"{key}/absent-{number}", data)
        say("created")
        found = store.get(f"{key}/swapped")
        store.compare_and_swap(f"{key}/swapped", data, found.etag if found else None)
        say("swapped")
        source.write_bytes(data)
        store.put_file(f"{key}/file", source)
        say("copied")
        store.delete(f"{key}/absent-{number}")


if __name__ == "__main__":
    action, uri, endpoint, *arguments = sys.argv[1:]
    opened = open_store(uri, s3_endpoint=endpoint or None)
    opened.head("warm-up")
    say("ready")
    sys.stdin.readline()
    {"create": create, "increment": increment, "churn": churn}[action](opened, *arguments[:2])

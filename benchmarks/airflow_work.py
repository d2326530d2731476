"""What reading DAGs costs, in a process of Airflow that has imported what it needs (`benchmarks.airflow`).

``parse FILE`` reads a file of the newest set as the dag-processor does, and serialises its DAGs. ``start DAG SET`` does
what a task does before it begins: it opens the bundle at the version of its run, and reads its own DAG.
"""

from __future__ import annotations

import json
import resource
import sys
import time

import psutil
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import BundleDagBag, DagBag
from airflow.sdk.definitions._internal.dag_parsing_context import _airflow_parsing_context_manager
from airflow.serialization.serialized_objects import DagSerialization

from airflow_bridge import local, waiting  # noqa: F401 - the loader imports them
from airflow_bridge.render import shard_of
from airflow_bridge.standalone import BUNDLE


def parse(file: str) -> dict[str, float]:
    """Seconds, and MiB: at most, and before it began."""
    bundle = DagBundlesManager().get_bundle(BUNDLE)
    bundle.initialize()
    before, begun = psutil.Process().memory_info().rss / 2**20, time.perf_counter()
    bag = DagBag(dag_folder=str(bundle.path / file), bundle_path=bundle.path, bundle_name=BUNDLE)
    serialised = [DagSerialization.to_dict(dag) for dag in bag.dags.values()]
    seconds = time.perf_counter() - begun
    if not serialised or bag.import_errors:
        raise RuntimeError(f"{len(serialised)} DAGs: {bag.import_errors}")
    return {"parse_s": seconds, "parse_mib": _peak_mib(), "imports_mib": before}


def start(dag_id: str, version: str) -> dict[str, float]:
    """Seconds."""
    begun = time.perf_counter()
    bundle = DagBundlesManager().get_bundle(BUNDLE, version=version)
    bundle.initialize()
    shards = len(list(bundle.path.glob("shard_*.py")))
    file = bundle.path / f"shard_{shard_of(dag_id, shards):02}.py"
    with _airflow_parsing_context_manager(dag_id=dag_id, task_id="features"):
        bag = BundleDagBag(
            dag_folder=str(file), safe_mode=False, load_op_links=False, bundle_path=bundle.path, bundle_name=BUNDLE
        )
    seconds = time.perf_counter() - begun
    if list(bag.dags) != [dag_id]:
        raise RuntimeError(f"{file} has not {dag_id}, but {list(bag.dags)}: {bag.import_errors}")
    return {"start_s": seconds}


def _peak_mib() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


if __name__ == "__main__":
    work, *arguments = sys.argv[1:]
    print(json.dumps({"parse": parse, "start": start}[work](*arguments)))

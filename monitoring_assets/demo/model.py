"""The demo's own car-loan model: a small gradient boosting on the seven features of the application, as ONNX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder

NUMERIC = ("car_value", "debt_to_income_ratio", "loan_length", "driver_tenure")
CATEGORICAL = ("salary_range", "repaid_loan_on_prev_car", "size_of_downpayment")
FEATURES = NUMERIC + CATEGORICAL
LABEL = "repaid"

# Pinned: the newest opset that the converter knows changes with its version, and with it the bytes of the artefact.
_OPSETS = {"": 18, "ai.onnx.ml": 3}


def model_inputs(frame: pl.DataFrame) -> pl.DataFrame:
    """The seven features of `frame` as the model takes them, numeric first, row for row.

    Numeric columns become Float32 with null as NaN; categorical ones String with null as "", booleans "true"/"false".
    """
    # ONNX compares in float32: fitted on float64, a value next to a tree's threshold could fall on its other side.
    numeric = (pl.col(name).cast(pl.Float32).fill_null(float("nan")) for name in NUMERIC)
    categorical = (pl.col(name).cast(pl.String).fill_null("") for name in CATEGORICAL)
    return frame.select(*numeric, *categorical)


def train(frame: pl.DataFrame) -> Pipeline:
    """A pipeline fitted on `frame`: the seven features and `repaid` (0 or 1, no nulls).

    It takes what `model_inputs` returns; column 1 of `predict_proba` is P(repaid). Same rows, same order, same
    library versions: same model. A category that was not seen counts as none of the known ones.
    """
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False, dtype=np.float32)
    columns = ColumnTransformer(
        [("numeric", "passthrough", list(NUMERIC)), ("categorical", encoder, list(CATEGORICAL))]
    )
    # Above 10,000 rows the default sets a tenth aside to stop early on; all the rows are for fitting here.
    boosting = HistGradientBoostingClassifier(early_stopping=False, random_state=0)
    pipeline = Pipeline([("columns", columns), ("boosting", boosting)])
    pipeline.fit(model_inputs(frame), frame[LABEL].cast(pl.Int8).to_numpy())
    return pipeline


def export_onnx(pipeline: Pipeline, path: Path) -> None:
    """Write `pipeline` as ONNX, the same bytes for the same pipeline.

    Inputs: one per feature, under its name, shape [N, 1], float or string (see `model_inputs`).
    Outputs: `label` int64 [N] and `probabilities` float [N, 2], of which column 1 is P(repaid).
    """
    inputs = [(name, FloatTensorType([None, 1])) for name in NUMERIC]
    inputs += [(name, StringTensorType([None, 1])) for name in CATEGORICAL]
    onnx = convert_sklearn(
        pipeline,
        name="car_loan",  # without it the graph gets a random name
        initial_types=inputs,
        options={id(pipeline): {"zipmap": False}},
        target_opset=_OPSETS,
    )
    # The converter names the operator sets in an order that differs from process to process.
    onnx.opset_import.sort(key=lambda each: each.domain)
    path.write_bytes(onnx.SerializeToString(deterministic=True))

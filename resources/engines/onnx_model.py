"""Batch scoring with ONNX Runtime: the one kind of artefact that can be run without running anybody's code."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from resources.errors import BadInput

if TYPE_CHECKING:
    import polars as pl

# Before ONNX Runtime is imported below: it would give the machine a number, keep that in the home folder, and report.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

_NUMBERS = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(int64)": np.int64}
_FLOATS = ("tensor(float)", "tensor(double)")


class OnnxModel:
    """A scoring session over the bytes of a model.

    Two layouts are understood: one input a feature, named as the feature, of shape [N, 1]; or a single float input
    of shape [N, F] with the features, all numeric, in their order. A null number goes in as nan, a null category as
    an empty string. The score is the last float output: [N], [N, 1], or [N, 2] with the second column.
    """

    def __init__(self, data: bytes, features: Mapping[str, bool], *, where: str) -> None:
        """Load ``data``; ``features`` maps each feature to whether it is numeric. Raises BadInput naming ``where``."""
        import onnxruntime  # noqa: PLC0415

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.inter_op_num_threads = 1
        # Idle threads that spin cost more CPU than the scoring of a small partition.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session: Any = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            raise BadInput(f"{where} is not a model that ONNX Runtime can load: {_first_line(error)}.") from error
        self._where = where
        self._features = dict(features)
        self._matrix = self._check_inputs()
        self._output = self._find_output()

    def score(self, frame: pl.DataFrame) -> npt.NDArray[np.float64]:
        """Scores [N] of the rows of ``frame``; raises BadInput when the model fails on them."""
        try:
            output = np.asarray(self._session.run([self._output], self._inputs(frame))[0], dtype=np.float64)
        except Exception as error:
            raise BadInput(f"{self._where} failed while scoring {frame.height} rows: {_first_line(error)}.") from error
        rows = frame.height
        if output.ndim == 0 or output.shape[0] != rows or output.size > 2 * rows:
            raise BadInput(
                f"{self._where} gives an output of shape {list(output.shape)} for {rows} rows; a score is one number "
                "a row (or two, good and bad)."
            )
        return np.ascontiguousarray(output.reshape(rows, -1 if rows else 1)[:, -1])

    def _inputs(self, frame: pl.DataFrame) -> dict[str, npt.NDArray[Any]]:
        inputs = self._session.get_inputs()
        if self._matrix:
            columns = [_numbers(frame[name]) for name in self._features]
            return {inputs[0].name: _cast(np.stack(columns, axis=1), inputs[0].type)}
        return {each.name: _column(frame[each.name], each.type) for each in inputs}

    def _check_inputs(self) -> bool:
        inputs = self._session.get_inputs()
        names = [each.name for each in inputs]
        one = inputs[0] if len(inputs) == 1 else None
        if one is not None and one.name not in self._features and one.type in _FLOATS:
            return self._check_matrix(one)
        missing, extra = sorted(set(self._features) - set(names)), sorted(set(names) - set(self._features))
        if missing or extra:
            raise BadInput(
                f"{self._where} has other inputs than the manifest's features: "
                f"{_names('features without an input', missing)}{_names('inputs without a feature', extra)}"
                "export one input a feature, of shape [N, 1] and named as the feature."
            )
        for each in inputs:
            if each.type not in _NUMBERS and each.type != "tensor(string)":
                raise BadInput(
                    f"{self._where}: input {each.name!r} is a {each.type}; use float, double, int64 or string."
                )
            if (each.type == "tensor(string)") == self._features[each.name]:
                kind = "numeric" if self._features[each.name] else "categorical"
                raise BadInput(f"{self._where}: feature {each.name!r} is {kind}, but its input is a {each.type}.")
        return False

    def _check_matrix(self, one: Any) -> bool:
        width = one.shape[-1] if len(one.shape) == 2 else None
        if width != len(self._features) or not all(self._features.values()):
            raise BadInput(
                f"{self._where} takes one matrix of {width} columns, which needs exactly as many features, all "
                f"numeric; the manifest has {len(self._features)}, {sum(self._features.values())} of them numeric."
            )
        return True

    def _find_output(self) -> str:
        outputs = [each for each in self._session.get_outputs() if each.type in _FLOATS]
        if not outputs:
            found = ", ".join(f"{each.name}: {each.type}" for each in self._session.get_outputs())
            raise BadInput(f"{self._where} has no float output ({found}); export it without a ZipMap.")
        return str(outputs[-1].name)


def _column(series: pl.Series, onnx_type: str) -> npt.NDArray[Any]:
    if onnx_type == "tensor(string)":
        texts = series.fill_null("") if series.null_count() else series
        return texts.to_numpy().astype(object).reshape(-1, 1)
    numbers = _numbers(series)
    if onnx_type == "tensor(int64)" and not np.isfinite(numbers).all():
        raise BadInput(f"{series.name!r} has null or infinite values, which its int64 input cannot hold; use float")
    return _cast(numbers, onnx_type).reshape(-1, 1)


def _cast(numbers: npt.NDArray[np.float64], onnx_type: str) -> npt.NDArray[Any]:
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite there
        return numbers.astype(_NUMBERS[onnx_type])


def _numbers(series: pl.Series) -> npt.NDArray[np.float64]:
    """Float64 values; polars gives nulls as nan."""
    return np.asarray(series.to_numpy(), dtype=np.float64)


def _names(what: str, names: Sequence[str]) -> str:
    return f"{what}: {', '.join(names[:10])}{' …' if len(names) > 10 else ''}; " if names else ""


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300].rstrip(".") if str(error).strip() else type(error).__name__

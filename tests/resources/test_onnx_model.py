from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import polars as pl
import pytest
from onnx import TensorProto, helper

from resources.engines.onnx_model import OnnxModel
from resources.errors import BadInput

FLOAT, DOUBLE, INT64, STRING = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.STRING
WHERE = "ke-nano-loan 3.2.0: model.onnx"
FEATURES = {"income": True, "age": True}
ROWS = pl.DataFrame({"income": [1.5, None, 3.0], "age": [20.0, 30.0, 40.0], "region": ["north", None, "south"]})


def model(
    inputs: Sequence[tuple[str, int, list[Any]]],
    nodes: Sequence[tuple[str, list[str], list[str]]],
    outputs: Sequence[tuple[str, int, Any]],
    constants: Sequence[onnx.TensorProto] = (),
    **attributes: Any,
) -> bytes:
    """An ONNX model; the attributes are the first node's."""
    made = [
        helper.make_node(kind, ins, outs, **(attributes if not number else {}))
        for number, (kind, ins, outs) in enumerate(nodes)
    ]
    graph = helper.make_graph(
        made,
        "score",
        [helper.make_tensor_value_info(*each) for each in inputs],
        [helper.make_tensor_value_info(*each) for each in outputs],
        constants,
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    data: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    return data


def added(kind: int = FLOAT, shape: Sequence[Any] = (None, 1), second: str = "age") -> bytes:
    """The sum of income and a second feature."""
    inputs = [("income", kind, list(shape)), (second, kind, list(shape))]
    return model(inputs, [("Add", ["income", second], ["score"])], [("score", kind, list(shape))])


def encoder() -> bytes:
    """Null is 7, north 1, everything else 9."""
    return model(
        [("region", STRING, [None, 1])],
        [("LabelEncoder", ["region"], ["score"])],
        [("score", FLOAT, [None, 1])],
        domain="ai.onnx.ml",
        keys_strings=["", "north"],
        values_floats=[7.0, 1.0],
        default_float=9.0,
    )


def refusal(data: bytes, features: dict[str, bool]) -> str:
    with pytest.raises(BadInput) as refused:
        OnnxModel(data, features, where=WHERE)
    assert str(refused.value).startswith(WHERE)
    return str(refused.value)


@pytest.mark.parametrize("kind", [FLOAT, DOUBLE])
def test_one_input_a_feature_is_fed_by_name(kind: int) -> None:
    found = OnnxModel(added(kind), {"age": True, "income": True}, where=WHERE).score(ROWS)
    np.testing.assert_array_equal(found, [21.5, np.nan, 43.0])
    assert found.dtype == np.float64


@pytest.mark.filterwarnings("error")
def test_what_a_float_cannot_hold_is_infinite() -> None:
    rows = pl.DataFrame({"income": [1e300, -1e300], "age": [1.0, 1.0]})
    assert OnnxModel(added(), FEATURES, where=WHERE).score(rows).tolist() == [float("inf"), -float("inf")]
    assert OnnxModel(added(DOUBLE), FEATURES, where=WHERE).score(rows).tolist() == [1e300, -1e300]


@pytest.mark.parametrize("kind", [FLOAT, DOUBLE])
def test_one_matrix_is_fed_in_the_features_order(kind: int) -> None:
    weights = helper.make_tensor("weights", kind, [2, 1], [1.0, 100.0])
    data = model(
        [("input", kind, [None, 2])],
        [("MatMul", ["input", "weights"], ["score"])],
        [("score", kind, [None, 1])],
        [weights],
    )
    np.testing.assert_array_equal(OnnxModel(data, FEATURES, where=WHERE).score(ROWS), [2001.5, np.nan, 4003.0])
    swapped = OnnxModel(data, {"age": True, "income": True}, where=WHERE).score(ROWS)
    np.testing.assert_array_equal(swapped, [170.0, np.nan, 340.0])


def test_a_matrix_of_one_feature_may_have_the_features_name() -> None:
    data = model([("income", FLOAT, [None, 1])], [("Identity", ["income"], ["score"])], [("score", FLOAT, [None, 1])])
    np.testing.assert_array_equal(OnnxModel(data, {"income": True}, where=WHERE).score(ROWS), [1.5, np.nan, 3.0])


def test_a_null_category_is_an_empty_text() -> None:
    assert OnnxModel(encoder(), {"region": False}, where=WHERE).score(ROWS).tolist() == [1.0, 7.0, 9.0]


def test_of_two_columns_the_second_is_the_score() -> None:
    data = model(
        [("income", FLOAT, [None, 1]), ("age", FLOAT, [None, 1])],
        [("Concat", ["income", "age"], ["probabilities"])],
        [("probabilities", FLOAT, [None, 2])],
        axis=1,
    )
    assert OnnxModel(data, FEATURES, where=WHERE).score(ROWS).tolist() == [20.0, 30.0, 40.0]


def test_of_several_outputs_the_last_one_of_floats_is_the_score() -> None:
    data = model(
        [("income", FLOAT, [None, 1]), ("age", FLOAT, [None, 1])],
        [("Identity", ["income"], ["first"]), ("Identity", ["age"], ["second"]), ("IsNaN", ["income"], ["label"])],
        [("first", FLOAT, [None, 1]), ("second", FLOAT, [None, 1]), ("label", TensorProto.BOOL, [None, 1])],
    )
    assert OnnxModel(data, FEATURES, where=WHERE).score(ROWS).tolist() == [20.0, 30.0, 40.0]


def test_scores_may_be_a_vector() -> None:
    shape = helper.make_tensor("shape", INT64, [1], [-1])
    data = model(
        [("income", FLOAT, [None, 1])],
        [("Reshape", ["income", "shape"], ["score"])],
        [("score", FLOAT, [None])],
        [shape],
    )
    np.testing.assert_array_equal(OnnxModel(data, {"income": True}, where=WHERE).score(ROWS), [1.5, np.nan, 3.0])


@pytest.mark.parametrize("shape", [(None, 1), ("N", 1)])
def test_no_rows_get_no_scores(shape: Sequence[Any]) -> None:
    assert OnnxModel(added(shape=shape), FEATURES, where=WHERE).score(ROWS.head(0)).shape == (0,)


def test_whole_numbers_fit_an_int64_input_and_nulls_do_not() -> None:
    data = model(
        [("age", INT64, [None, 1])], [("Cast", ["age"], ["score"])], [("score", FLOAT, [None, 1])], to=TensorProto.FLOAT
    )
    loaded = OnnxModel(data, {"age": True}, where=WHERE)
    assert loaded.score(ROWS).tolist() == [20.0, 30.0, 40.0]
    for missing in (None, float("inf")):
        with pytest.raises(BadInput, match="'age' has null or infinite values, which its int64 input cannot hold"):
            loaded.score(pl.DataFrame({"age": [20.0, missing]}))


def test_other_inputs_than_the_features_are_named() -> None:
    message = refusal(added(second="tenure"), FEATURES)
    assert "features without an input: age; inputs without a feature: tenure; " in message
    assert "export one input a feature, of shape [N, 1] and named as the feature" in message
    assert "features without an input: region; " in refusal(added(), {**FEATURES, "region": False})
    assert "inputs without a feature: age; " in refusal(added(), {"income": True})


def test_inputs_of_another_kind_than_the_feature_are_named() -> None:
    assert "feature 'age' is categorical, but its input is a tensor(float)" in refusal(
        added(), {"income": True, "age": False}
    )
    assert "feature 'region' is numeric, but its input is a tensor(string)" in refusal(encoder(), {"region": True})
    flag = model(
        [("income", TensorProto.BOOL, [None, 1])], [("Cast", ["income"], ["s"])], [("s", FLOAT, [None, 1])], to=FLOAT
    )
    assert "input 'income' is a tensor(bool); use float, double, int64 or string" in refusal(flag, {"income": True})


@pytest.mark.parametrize(
    ("features", "words"),
    [
        ({"income": True}, "the manifest has 1, 1 of them numeric"),
        ({"income": True, "region": False}, "the manifest has 2, 1 of them numeric"),
    ],
)
def test_a_matrix_needs_as_many_numeric_features(features: dict[str, bool], words: str) -> None:
    data = model([("input", FLOAT, [None, 2])], [("Identity", ["input"], ["score"])], [("score", FLOAT, [None, 2])])
    message = refusal(data, features)
    assert "takes one matrix of 2 columns" in message
    assert words in message


def test_a_model_without_a_float_output_is_refused() -> None:
    data = model(
        [("income", FLOAT, [None, 1])], [("IsNaN", ["income"], ["bad"])], [("bad", TensorProto.BOOL, [None, 1])]
    )
    assert "has no float output (bad: tensor(bool)); export it without a ZipMap" in refusal(data, {"income": True})


@pytest.mark.parametrize("data", [b"", b"\x80\x04pickle", b"{}", b"\x08\x0a" * 500])
def test_what_is_no_model_is_refused_in_one_line(data: bytes) -> None:
    message = refusal(data, FEATURES)
    assert "is not a model that ONNX Runtime can load: " in message
    assert "\n" not in message


def test_a_model_of_operators_that_nobody_knows_is_refused() -> None:
    data = model(
        [("income", FLOAT, [None, 1])],
        [("Mystery", ["income"], ["score"])],
        [("score", FLOAT, [None, 1])],
        domain="evil",
    )
    assert "is not a model that ONNX Runtime can load" in refusal(data, {"income": True})


def test_a_model_cannot_read_files(tmp_path: Any) -> None:
    (tmp_path / "secret").write_bytes(np.ones(1, dtype=np.float32).tobytes())
    outside = onnx.TensorProto(name="weight", data_type=FLOAT, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value=str(tmp_path / "secret"))
    data = model(
        [("income", FLOAT, [None, 1])],
        [("Add", ["income", "weight"], ["score"])],
        [("score", FLOAT, [None, 1])],
        [outside],
    )
    assert "is not a model that ONNX Runtime can load" in refusal(data, {"income": True})


def test_more_numbers_a_row_than_two_are_no_score() -> None:
    data = model(
        [("income", FLOAT, [None, 1])],
        [("Concat", ["income", "income", "income"], ["score"])],
        [("score", FLOAT, [None, 3])],
        axis=1,
    )
    with pytest.raises(BadInput, match=r"gives an output of shape \[3, 3\] for 3 rows; a score is one number a row"):
        OnnxModel(data, {"income": True}, where=WHERE).score(ROWS)


@pytest.mark.parametrize("keepdims", [0, 1])
def test_one_number_for_all_rows_is_no_score(keepdims: int) -> None:
    shape = [1, 1] if keepdims else []
    data = model(
        [("income", FLOAT, [None, 1])],
        [("ReduceMax", ["income"], ["score"])],
        [("score", FLOAT, shape)],
        keepdims=keepdims,
    )
    with pytest.raises(BadInput, match="a score is one number a row"):
        OnnxModel(data, {"income": True}, where=WHERE).score(ROWS)


def test_a_model_that_fails_on_the_rows_says_where() -> None:
    shape = helper.make_tensor("shape", INT64, [2], [2, 1])
    data = model(
        [("income", FLOAT, [None, 1])],
        [("Reshape", ["income", "shape"], ["score"])],
        [("score", FLOAT, [2, 1])],
        [shape],
    )
    with pytest.raises(BadInput) as failed:
        OnnxModel(data, {"income": True}, where=WHERE).score(ROWS)
    assert str(failed.value).startswith(f"{WHERE} failed while scoring 3 rows: ")
    assert "\n" not in str(failed.value)


def test_a_process_that_scores_keeps_nothing_about_this_machine_and_reports_to_nobody(tmp_path: Path) -> None:
    home, stored = tmp_path / "home", tmp_path / "model.onnx"
    home.mkdir()
    stored.write_bytes(added())
    code = (
        "import sys, pathlib; from resources.engines.onnx_model import OnnxModel; "
        "OnnxModel(pathlib.Path(sys.argv[1]).read_bytes(), {'income': True, 'age': True}, where='a model')"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_"))}
    subprocess.run([sys.executable, "-c", code, str(stored)], env={**kept, "HOME": str(home)}, check=True)
    assert list(home.rglob("*")) == []

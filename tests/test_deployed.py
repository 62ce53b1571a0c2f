"""Files that are deployed: their accuracy in onnxruntime, and ONNX files that are none, or lie."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from typer.testing import CliRunner

import greg_compress
from greg_compress.cli import app
from greg_compress.deploy import half, metadata, opening
from greg_compress.deploy.accuracy import evaluate_file
from greg_compress.deploy.quantized import quantize
from greg_compress.errors import CheckFailed, InputError
from greg_compress.export import to_onnx
from greg_compress.sources.data import load_data
from greg_compress.sources.normalization import Normalization
from greg_compress.sources.samples import Part
from greg_compress.sources.specs import DataSpec
from tests.conftest import DIGITS, Ran
from tests.test_tensor_files import measurable, peak, reset_peak

Greg = Callable[..., Ran]
RANDOM = numpy.random.default_rng(0)
WEIGHT = RANDOM.standard_normal((64, 10), dtype=numpy.float32)
FLAT = [helper.make_node("Flatten", ["input"], ["flat"]), helper.make_node("MatMul", ["flat", "W"], ["made"])]
END = helper.make_node("Identity", ["made"], ["output"])


def tensor(name: str, array: Any) -> TensorProto:
    return onnx.numpy_helper.from_array(numpy.asarray(array), name)


def saved(
    path: Path,
    nodes: Sequence[onnx.NodeProto] = (*FLAT, END),
    more: Sequence[TensorProto] = (),
    batch: int | str = "batch",
    shape: Sequence[int | str] = (1, 8, 8),
    kind: int = TensorProto.FLOAT,
    opset: int = 18,
    **entries: object,
) -> Path:
    """A linear classifier of the digits, or what is made of it."""
    graph = helper.make_graph(
        list(nodes),
        "linear",
        [helper.make_tensor_value_info("input", kind, [batch, *shape])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [batch, 10])],
        [tensor("W", WEIGHT), *more],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    helper.set_model_props(model, {f"greg.{key}": value if key == "preprocessing" else json.dumps(value)
                                   for key, value in entries.items()})  # fmt: skip
    path.write_bytes(model.SerializeToString())
    return path


def by_hand(part: Part, normalization: Normalization) -> tuple[float, float, float]:
    """Top-1, top-5 and loss of the linear classifier, in numpy and float64."""
    pixels = part.images.numpy().reshape(len(part), -1).astype(float)
    logits = (pixels * normalization.scale - normalization.mean[0]) / normalization.std[0] @ WEIGHT.astype(float)
    labels = part.labels.numpy()
    own = logits[range(len(labels)), labels]
    rank = (logits > own[:, None]).sum(axis=1)
    loss = (numpy.log(numpy.exp(logits - own[:, None]).sum(axis=1))).mean()
    return 100 * float((rank < 1).mean()), 100 * float((rank < 5).mean()), float(loss)


@pytest.fixture(scope="module")
def digits() -> Any:
    return load_data(DataSpec("digits", None))


def test_a_file_is_as_good_as_the_state_that_it_was_made_of(greg: Greg, tmp_path: Path) -> None:
    assert greg("export", DIGITS, "-o", "d.onnx", "--runs", 1).code == 0
    content = (tmp_path / "d.onnx").read_bytes()
    assert b"layer1.0.conv1" in content
    assert b"aten" not in content  # nor anything else that the exporter notes, such as paths of this machine
    state, file = (greg("evaluate", model, "--data", "digits", "--json").json for model in (DIGITS, "d.onnx"))
    assert file.keys() == state.keys()
    made = [each.pop("made_by")["input"]["model"] for each in (state, file)]
    assert made == [str(DIGITS), "d.onnx"]
    assert {**file, "loss": 0} == {**state, "loss": 0}
    assert file["loss"] == pytest.approx(state["loss"], rel=1e-4)
    metadata.stamp(
        tmp_path / "d.onnx", {"greg.mean": "[0.9]", "greg.std": "[0.4]"}
    )  # the check would see another normalisation
    assert greg("evaluate", "d.onnx", "--data", "digits", "--json").json["loss"] > 1.1 * state["loss"]


@settings(max_examples=15, deadline=None)
@given(
    batch=st.integers(1, 70) | st.just(1000) | st.just("batch"), count=st.integers(1, 100), at_once=st.integers(1, 40)
)
def test_accuracy_is_what_numpy_says_for_any_batch(
    tmp_path_factory: pytest.TempPathFactory, digits: Any, batch: int | str, count: int, at_once: int
) -> None:
    path = saved(tmp_path_factory.mktemp("any") / "linear.onnx", batch=batch)

    class Few(Part):
        pass

    Few.at_once = at_once
    part = Few(digits.test.images[:count], digits.test.labels[:count].clone())
    found = evaluate_file(path, part, digits.normalization, threads=1)
    top1, top5, loss = by_hand(part, digits.normalization)
    assert (found.top1, found.top5, found.samples) == (pytest.approx(top1), pytest.approx(top5), count)
    assert found.loss == pytest.approx(loss, rel=1e-4, abs=1e-6)
    part.labels[0] = (part.labels[0] + 1) % 10  # the check would see one wrong label
    assert by_hand(part, digits.normalization)[2] != pytest.approx(loss, rel=1e-4)


def test_whoever_normalises_the_outputs_are_the_same(greg: Greg, tmp_path: Path, digits: Any) -> None:
    own = digits.normalization
    inside = [
        helper.make_node("Cast", ["input"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["pixels", "scale"], ["scaled"]),
        helper.make_node("Sub", ["scaled", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "std"], ["ready"]),
        helper.make_node("Flatten", ["ready"], ["flat"]),
        FLAT[1],
        END,
    ]
    numbers = [tensor(name, numpy.float32(value)) for name, value in
               (("scale", own.scale), ("mean", own.mean[0]), ("std", own.std[0]))]  # fmt: skip
    saved(tmp_path / "inside.onnx", inside, numbers, preprocessing="normalize")
    saved(tmp_path / "bytes.onnx", inside, numbers, kind=TensorProto.UINT8)
    saved(tmp_path / "says.onnx", mean=own.mean, std=own.std, preprocessing="none")
    saved(tmp_path / "foreign.onnx")
    saved(tmp_path / "other.onnx", mean=[0.0], std=[1.0])
    ran = {name: greg("evaluate", f"{name}.onnx", "--data", "digits", "--json")
           for name in ("inside", "bytes", "says", "foreign", "other")}  # fmt: skip
    wanted = by_hand(digits.test, own)[2]
    for name in ("inside", "bytes", "says", "foreign"):
        assert ran[name].json["loss"] == pytest.approx(wanted, rel=1e-4)
    assert ran["other"].json["loss"] != pytest.approx(wanted, rel=0.01)
    assert ["does not say how its images are normalised" in ran[name].err for name in ran] == [False] * 3 + [
        True,
        False,
    ]


def test_zeros_are_counted_in_floating_point_weights(greg: Greg, tmp_path: Path) -> None:
    path = saved(tmp_path / "l.onnx")
    model = onnx.load(path)
    sparse = WEIGHT.copy()
    sparse[:16] = 0
    model.graph.initializer[0].CopyFrom(tensor("W", sparse))
    onnx.save(model, path)
    found = greg("evaluate", "l.onnx", "--data", "digits", "--json").json
    assert (found["zeros"], found["sparsity"]) == (160, 25.0)


def damaged(folder: Path) -> dict[str, bytes]:
    whole = saved(folder / "w.onnx").read_bytes()
    return {
        "empty": b"",
        "text": b"hello",
        "truncated": whole[: len(whole) // 2],
        "a state": DIGITS.read_bytes(),
    }


@pytest.mark.parametrize("name", ["empty", "text", "truncated", "a state"])
def test_what_is_no_onnx_file_is_said_in_one_line(greg: Greg, tmp_path: Path, name: str) -> None:
    (tmp_path / "m.onnx").write_bytes(damaged(tmp_path)[name])
    ran = greg("evaluate", "m.onnx", "--data", "digits", "--json")
    assert (ran.code, ran.out) == (4, "")
    assert "m.onnx is no ONNX file" in ran.error()


def outside(path: Path, location: str) -> None:
    """Weights that lie in a file beside it, or elsewhere."""
    model = onnx.load(saved(path))
    held = model.graph.initializer[0]
    (path.parent / "weights.bin").write_bytes(held.raw_data)
    onnx.external_data_helper.set_external_data(held, location, length=len(held.raw_data))
    held.ClearField("raw_data")
    path.write_bytes(model.SerializeToString())


def test_weights_may_lie_beside_the_file_and_nowhere_else(greg: Greg, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "m.onnx"
    outside(path, "weights.bin")
    found = [greg("evaluate", each, "--data", "digits", "--json").json for each in (path, saved(tmp_path / "w.onnx"))]
    named = [each.pop("made_by")["input"]["sha256"] for each in found]
    assert found[0] == found[1]
    assert named[0] != named[1]
    (tmp_path / "in" / "weights.bin").write_bytes(b"short")
    assert "which is truncated" in greg("evaluate", path, "--data", "digits").error()
    (tmp_path / "in" / "weights.bin").unlink()
    ran = greg("evaluate", path, "--data", "digits")
    assert ran.code == 4
    assert "which is not there" in ran.error()
    outside(path, "../w.onnx")
    ran = greg("evaluate", path, "--data", "digits")
    assert ran.code == 4
    assert "outside of its folder" in ran.error()


HUGE = tensor("huge", numpy.array([2 * 10**9]))
SUMMED = (
    helper.make_node("ReduceSum", ["big"], ["sum"], keepdims=0),
    helper.make_node("Add", ["made", "sum"], ["output"]),
)
BOMBS: dict[str, tuple[Sequence[onnx.NodeProto], Sequence[TensorProto]]] = {
    "a constant": ((*FLAT, helper.make_node("ConstantOfShape", ["huge"], ["big"]), *SUMMED), [HUGE]),
    "a run": (
        (
            *FLAT,
            helper.make_node("ReduceSum", ["made"], ["one"], keepdims=0),
            helper.make_node("Expand", ["one", "huge"], ["big"]),
            *SUMMED,
        ),
        [HUGE],
    ),
    "a claim": ((*FLAT, *SUMMED), [TensorProto(name="big", data_type=TensorProto.FLOAT, dims=[2 * 10**9])]),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_file_that_asks_for_any_amount_of_memory_is_refused(greg: Greg, tmp_path: Path, name: str) -> None:
    saved(tmp_path / "m.onnx", *BOMBS[name])
    ran = greg("evaluate", "m.onnx", "--data", "digits")
    assert ran.code == 4
    assert "is damaged" in ran.error() if name == "a claim" else "more memory than" in ran.error()


@measurable
def test_a_million_empty_nodes_are_refused_within_the_declared_memory(tmp_path: Path) -> None:
    """Each takes two bytes in the file, and hundreds in memory."""
    path = saved(tmp_path / "m.onnx")
    nodes = b"\x0a\x00" * 3_000_000
    length = bytes(
        [len(nodes) & 127 | 128, len(nodes) >> 7 & 127 | 128, len(nodes) >> 14 & 127 | 128, len(nodes) >> 21]
    )
    path.write_bytes(path.read_bytes() + b"\x3a" + length + nodes)  # more of the graph
    reset_peak()
    before = max(peak(), *(opening.taken() or ()))  # memory of tests before this one may be held, but not resident
    with pytest.raises(InputError, match="more memory than"):
        opening.open_network(path, threads=1)
    assert peak() - before < 2 * path.stat().st_size + 2**30


def test_the_limit_of_memory_limits() -> None:
    with pytest.raises(InputError, match="more memory"), opening.bounded(2**26, Path("m.onnx")):
        bytearray(2**31)  # more than was ever freed here, and so could be had without asking
    with opening.bounded(2**30, Path("m.onnx")):
        bytearray(2**28)
    bytearray(2**28)  # and it ends with its block


CAST = helper.make_node("Cast", ["input"], ["numbers"], to=TensorProto.FLOAT)
CASTED = (helper.make_node("Flatten", ["numbers"], ["flat"]), FLAT[1])
UNKNOWN = helper.make_node("Unheard", ["made"], ["output"])


@pytest.mark.parametrize(
    ("options", "words", "code", "said"),
    [
        ({"shape": (1, 4, 16)}, (), 2, "digits has images of 1x8x8, but m.onnx takes 1x4x16"),
        ({"shape": (4, 4, 4)}, (), 2, "digits has images of 1x8x8, but m.onnx takes 4x4x4"),
        ({"shape": (1, 9, 9)}, (), 4, "cannot open m.onnx"),
        ({"shape": (64,)}, (), 2, "not images"),
        ({"kind": TensorProto.INT64, "nodes": (CAST, *CASTED, END)}, (), 2, "tensor(int64)"),
        ({"nodes": (*FLAT, UNKNOWN)}, (), 4, "lacks the operator Unheard"),
        ({"opset": 999}, (), 4, "cannot open m.onnx"),
        ({"nodes": FLAT}, (), 4, "cannot open m.onnx"),
        ({"mean": [0.1, 0.2], "std": [1.0]}, (), 4, "greg.mean"),
        ({"mean": [0.1], "std": [0]}, (), 4, "positive deviation"),
        ({"mean": [0.1]}, (), 4, "cannot be read"),
        ({"preprocessing": "boil"}, (), 4, "'boil'"),
        ({}, ("--input-shape", "3,8,8"), 2, "--input-shape contradicts m.onnx, which takes 1x8x8"),
        ({}, ("--arch", "torchvision:resnet18"), 2, "--arch would have no effect"),
        ({}, ("--allow-pickle",), 2, "--allow-pickle would have no effect"),
        ({}, ("--device", "cuda"), 2, "--device cuda would have no effect"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(
    greg: Greg, tmp_path: Path, options: dict[str, Any], words: tuple[str, ...], code: int, said: str
) -> None:
    saved(tmp_path / "m.onnx", **options)
    ran = greg("evaluate", "m.onnx", "--data", "digits", "--json", *words)
    assert (ran.code, ran.out) == (code, "")
    assert said in ran.error()


def test_the_wrong_number_of_classes_is_said(greg: Greg, tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx")
    model = onnx.load(path)
    model.graph.initializer[0].CopyFrom(tensor("W", WEIGHT[:, :7]))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 7
    onnx.save(model, path)
    ran = greg("evaluate", "m.onnx", "--data", "digits")
    assert ran.code == 2
    assert "digits has 10 classes, but m.onnx has 7 outputs" in ran.error()


def test_free_sizes_take_what_the_data_have(greg: Greg, tmp_path: Path) -> None:
    saved(tmp_path / "free.onnx", shape=("channels", "height", "width"))
    saved(tmp_path / "m.onnx")
    found = [greg("evaluate", name, "--data", "digits", "--json").json for name in ("free.onnx", "m.onnx")]
    assert [each.pop("made_by")["input"]["model"] for each in found] == ["free.onnx", "m.onnx"]
    assert found[0] == found[1]
    assert torch.isfinite(torch.tensor(found[0]["loss"]))


def rows(ran: Ran) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["network"], row["precision"]): row for row in ran.json["variants"]}


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cut a little, so that the digits are still told apart without fine-tuning."""
    path = tmp_path_factory.mktemp("pruned") / "p.pt"
    done = CliRunner().invoke(app, ["prune", str(DIGITS), "--ratios", "layer3=0.3,layer2.2=0.3", "-o", str(path)])
    assert done.exit_code == 0, done.stderr
    return path


def test_int8_of_pruned_and_dense_in_one_table(greg: Greg, tmp_path: Path, pruned: Path) -> None:
    ran = greg(
        "export", pruned, "--baseline", DIGITS, "-o", "q.onnx", "--int8", "--data", "digits", "--runs", 5, "--json"
    )
    table = rows(ran)
    assert list(table) == [
        (network, precision) for precision in ("fp32", "int8") for network in ("baseline", "exported")
    ]
    assert (ran.json["precision"], ran.json["zeros"]) == ("int8", None)
    assert ran.json["calibration"] == {"images": 512, "method": "minmax", "per_channel": True, "weight_bits": 7}
    for network in ("baseline", "exported"):
        plain, light = table[network, "fp32"], table[network, "int8"]
        assert light["size"] < 0.35 * plain["size"]
        assert plain["top1"] - light["top1"] <= 0.5
        assert 0 < light["p50_ms"] <= light["p95_ms"]
    assert ran.json["size"] == table["exported", "int8"]["size"] == (tmp_path / "q.onnx").stat().st_size
    assert ran.json["latency"]["p50_ms"] == table["exported", "int8"]["p50_ms"]
    assert ran.json["baseline"]["p50_ms"] == table["baseline", "fp32"]["p50_ms"]
    for state, network in ((DIGITS, "baseline"), (pruned, "exported")):
        wanted = greg("evaluate", state, "--data", "digits", "--json").json["top1"]
        assert table[network, "fp32"]["top1"] == wanted
    evaluated = greg("evaluate", "q.onnx", "--data", "digits", "--json")
    assert evaluated.json["top1"] == table["exported", "int8"]["top1"]
    assert "does not say how" not in evaluated.err
    assert (evaluated.json["zeros"], evaluated.json["sparsity"]) == (None, None)
    shown = greg("show", "q.onnx", "--json").json["holds"]
    learnt = [held for name, held in greg_compress.load(pruned).named_parameters() if "bn" not in name]
    assert shown["weights"] == pytest.approx(sum(held.numel() for held in learnt), rel=0.01)
    assert [path.name for path in tmp_path.iterdir()] == ["q.onnx"]


def weights_of(path: Path) -> dict[str, Any]:
    return {held.name: onnx.numpy_helper.to_array(held) for held in onnx.load(path).graph.initializer}


def test_weights_have_a_scale_for_each_channel_and_never_overflow(tmp_path: Path, digits: Any) -> None:
    """The sum of two products of a byte and a weight must fit into 16 bits, where processors without VNNI add it."""
    nodes = [
        helper.make_node("Conv", ["input", "kernel"], ["maps"], kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("GlobalAveragePool", ["maps"], ["means"]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("Identity", ["flat"], ["output"]),
    ]
    kernel = (
        RANDOM.standard_normal((10, 1, 3, 3), dtype=numpy.float32) * 10.0 ** numpy.arange(-4, 6)[:, None, None, None]
    )
    source = saved(tmp_path / "c.onnx", nodes, [tensor("kernel", kernel.astype(numpy.float32))], version="mine")
    quantize(source, tmp_path / "q.onnx", digits.train, digits.normalization)
    held = weights_of(tmp_path / "q.onnx")
    (name,) = (name for name, array in held.items() if array.dtype == numpy.int8 and array.ndim == 4)
    stored = held[name]
    assert 255 * 2 * numpy.abs(stored.astype(int)).max() < 2**15
    assert (numpy.abs(stored).max(axis=(1, 2, 3)) == 64).all()
    scale = held[name.replace("_quantized", "_scale")]
    assert scale.shape == (10,)
    back = stored * scale[:, None, None, None]
    assert (numpy.abs(back - kernel) <= 0.51 * scale[:, None, None, None]).all()
    assert {entry.key: entry.value for entry in onnx.load(tmp_path / "q.onnx").metadata_props} == {
        "greg.version": '"mine"'
    }


def test_what_has_no_product_cannot_be_quantized(tmp_path: Path, digits: Any) -> None:
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"]),
        helper.make_node("Slice", ["flat", "from", "to", "axis"], ["output"]),
    ]
    ends = [tensor(name, [value]) for name, value in (("from", 0), ("to", 10), ("axis", 1))]
    source = saved(tmp_path / "s.onnx", nodes, ends)
    with pytest.raises(CheckFailed, match="nothing in the network can be quantized"):
        quantize(source, tmp_path / "q.onnx", digits.train, digits.normalization)


TINY = """
import torch
class Net(torch.nn.Sequential):
    input_shape = (1, 8, 8)
    def __init__(self):
        torch.manual_seed(0)
        first, second = torch.nn.Conv2d(1, 64, 3), torch.nn.Conv2d(64, 64, 3)
        super().__init__(first, torch.nn.ReLU(), second, torch.nn.Flatten(), torch.nn.Linear(1024, 10))
"""


def test_fp16_halves_the_file_within_its_tolerance(greg: Greg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "n.py").write_text(TINY)
    ran = greg("export", "n.py:Net", "-o", "h.onnx", "--fp16", "--runs", 5, "--json")
    plain, light = rows(ran).values()
    assert light["size"] == (tmp_path / "h.onnx").stat().st_size < 0.55 * plain["size"]
    assert (plain["top1"], light["top1"]) == (None, None)
    assert ran.json["light_parity"]["passed"]
    assert ran.json["parity"]["max_rel_error"] < 1e-5 < ran.json["light_parity"]["max_rel_error"] < half.TOLERANCE
    monkeypatch.setattr(half, "TOLERANCE", 1e-7)
    refused = greg("export", "n.py:Net", "-o", "n.onnx", "--fp16", "--runs", 5, "--json")
    assert (refused.code, refused.json["onnx"], refused.json["light_parity"]["passed"]) == (3, None, False)
    assert not (tmp_path / "n.onnx").exists()


def test_a_precision_that_costs_too_much_is_said(greg: Greg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "n.py").write_text(TINY)
    words = ("export", "n.py:Net", "-o", "q.onnx", "--int8", "--data", "digits", "--runs", 2, "--force")
    assert "points of top-1" not in greg(*words).err
    monkeypatch.setattr(to_onnx, "MOST_DROP", -100)
    assert re.search(r"int8 loses -?\d\.\d\d points of top-1", greg(*words).err)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--int8",), 2, "name them with --data"),
        (("--int8", "--fp16", "--data", "digits"), 2, "contradict each other"),
        (("--data", "digits"), 2, "--data would have no effect without --min-top1, --int8 or --fp16"),
        (("--fp16", "--workers", 2), 2, "--workers would have no effect without --data"),
        (("--int8", "--data", "shapes.py:make"), 2, "has images of 3x8x8, but the network takes 1x8x8"),
        (("--int8", "--data", "shapes.py:few"), 2, "has 3 classes, but the network has 10 outputs"),
        (("--int8", "--data", "shapes.py:empty"), 4, "holds no training images"),
    ],
)
def test_requests_that_make_no_sense_leave_nothing(
    greg: Greg, tmp_path: Path, words: tuple[object, ...], code: int, said: str
) -> None:
    (tmp_path / "shapes.py").write_text(
        "import torch\n"
        "class Set(list):\n    classes = [0, 1, 2]\n"
        "def make(): return [[(torch.zeros(3, 8, 8), 0)]] * 2\n"
        "def few(): return [Set([(torch.zeros(1, 8, 8), 0)])] * 2\n"
        "def empty(): return [], []\n"
    )
    ran = greg("export", DIGITS, "-o", "q.onnx", "--json", *words)
    assert (ran.code, ran.out) == (code, "")
    assert said in ran.error()
    assert {path.name for path in tmp_path.iterdir()} <= {"shapes.py", "__pycache__"}

"""Files of tensors: what torch wrote comes back, what lies is refused, nothing runs, memory stays bounded."""

from __future__ import annotations

import argparse
import collections
import io
import json
import os
import pickle
import random
import struct
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from greg_compress.errors import GregError, InputError
from greg_compress.options.network import ModelOptions
from greg_compress.sources.specs import parse_architecture
from greg_compress.state import files
from greg_compress.state.models import open_model
from greg_compress.tensor_files.arrays import read_arrays
from greg_compress.tensor_files.plain_pickle import Inert, PlainUnpickler
from greg_compress.tensor_files.reader import read
from greg_compress.tensor_files.state_dicts import unwrapped
from tests.conftest import DIGITS, RESNET
from tests.test_training import assert_same

SPEC = f"{RESNET}:resnet20"
SMALL = ("in_channels=1", "width=2")


def small_weights() -> dict[str, Tensor]:
    options = ModelOptions(SPEC, parse_architecture(SPEC, SMALL), ((1, 8, 8),))
    return open_model(options).state.weights


FORMATS: list[dict[str, Any]] = [
    {},
    {"_use_new_zipfile_serialization": False},
    {"pickle_protocol": 4},
    {"_use_new_zipfile_serialization": False, "pickle_protocol": 4},
]


@pytest.mark.parametrize("keywords", FORMATS, ids=["zip", "legacy", "zip4", "legacy4"])
def test_what_torch_wrote_comes_back(tmp_path: Path, keywords: dict[str, Any]) -> None:
    """Torch's own reader is the oracle; objects of strange classes do not stand in the way of the rest."""
    tied = torch.randn(3, 4)
    saved = {
        **{str(dtype): torch.ones(2, 3).to(dtype) for dtype in (torch.float64, torch.bfloat16, torch.bool, torch.int8)},
        "views": [tied, tied.t(), tied[1:, ::2], tied[2, 3]],
        "none": torch.empty(0, 4),
        "parameter": nn.Parameter(torch.randn(2)),
        "model": nn.BatchNorm2d(3).state_dict(),
        "counts": collections.defaultdict(list, {"a": [1, -(2**40), 2.5, None, True, "ä"]}),
        "size": torch.Size([1, 2]),
    }
    strange = {"args": argparse.Namespace(a=1), "best": numpy.float64(3.5), "seen": {1, 2}, "where": Path("x")}
    torch.save(saved, tmp_path / "plain.pt", **keywords)
    torch.save({**saved, **strange}, tmp_path / "strange.pt", **keywords)
    expected = torch.load(tmp_path / "plain.pt", weights_only=False)
    found, _ = read(tmp_path / "strange.pt")
    assert {name for name, value in found.items() if isinstance(value, Inert)} == strange.keys()
    assert_same({name: found[name] for name in expected}, expected)
    assert found["views"][0].untyped_storage().data_ptr() == found["views"][1].untyped_storage().data_ptr()


@pytest.mark.parametrize("keywords", FORMATS[:2], ids=["zip", "legacy"])
def test_a_whole_network_is_a_stand_in_of_its_class(tmp_path: Path, keywords: dict[str, Any]) -> None:
    torch.save(nn.Sequential(nn.Linear(2, 2)), tmp_path / "net.pt", **keywords)
    assert read(tmp_path / "net.pt")[0] == Inert("torch.nn.modules.container.Sequential")


def test_every_opcode_that_is_left_is_harmless() -> None:
    """None imports or calls anything but through our own tables."""
    allowed = {chr(code) for code in PlainUnpickler.dispatch}
    assert not allowed & {opcode.decode("latin1") for opcode in (
        pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.BYTEARRAY8,
        pickle.NEXT_BUFFER, pickle.DICT, pickle.PERSID,
    )}  # fmt: skip


class Hostile:
    """Pickles as a call of anything."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def zipped(pickled: bytes, **records: bytes) -> bytes:
    """An archive as torch writes it, with a pickle of one's own."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("x/data.pkl", pickled)
        archive.writestr("x/byteorder", b"little")
        for key, content in records.items():
            archive.writestr(f"x/data/{key}", content)
    return buffer.getvalue()


STORAGE = object()


def tensor_pickle(numel: int, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> bytes:
    """A state dict with one tensor that claims whatever one likes."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", numel) if value is STORAGE else None

    buffer = io.BytesIO()
    rebuilt = Hostile(torch._utils._rebuild_tensor_v2, STORAGE, offset, size, stride, False, collections.OrderedDict())
    Pickler(buffer, 2).dump({"w": rebuilt})
    return buffer.getvalue()


def test_hostile_pickles_run_nothing(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    bombs = [
        Hostile(os.system, f"touch {ran}"),
        Hostile(eval, f"open({str(ran)!r}, 'w')"),
        Hostile(Path.touch, ran),
        Hostile(subprocess.check_output, ["touch", str(ran)]),
    ]
    for number, bomb in enumerate(bombs):
        for place, content in enumerate((bomb, {"format": "greg-state", "x": bomb}, {"state_dict": bomb}, [bomb])):
            for kind, save in {"zip": torch.save, "raw": lambda o, p: p.write_bytes(pickle.dumps(o))}.items():
                path = tmp_path / f"{number}-{place}-{kind}.pt"
                save(content, path)
                for arch in (None, parse_architecture(SPEC, SMALL)):
                    with pytest.raises(InputError):
                        open_model(ModelOptions(str(path), arch, ((1, 8, 8),)))
    assert not ran.exists()


def peak() -> int:
    """Most resident bytes since :func:`reset_peak`."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


MOST_MEMORY = 2**30
measurable = pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux to measure memory")


def nested(opcode: bytes, count: int) -> bytes:
    return b"\x80\x02]" + opcode * count + b"."


BOMBS: dict[str, Callable[[], bytes]] = {
    "a bytearray of 20 GB": lambda: zipped(pickle.dumps({"w": Hostile(bytearray, 20 * 10**9)}, 2)),
    "a tensor of 10^12 elements of one": lambda: zipped(tensor_pickle(1, (10**12,), (0,)), **{"0": bytes(4)}),
    "a storage of 10^12 elements": lambda: zipped(tensor_pickle(10**12, (10**12,), (1,)), **{"0": bytes(4)}),
    "a tensor beyond its storage": lambda: zipped(tensor_pickle(4, (2, 2), (2, 1), offset=1), **{"0": bytes(16)}),
    "a negative stride": lambda: zipped(tensor_pickle(4, (2,), (-1,), offset=3), **{"0": bytes(16)}),
    "a storage that is not there": lambda: zipped(tensor_pickle(4, (4,), (1,))),
    "a memo of any index": lambda: zipped(b"\x80\x02Nr\xff\xff\xff\x7f."),
    "a million empty dictionaries": lambda: zipped(nested(b"}a", 4_000_000)),
    "marks": lambda: zipped(nested(b"(", 15_000_000)),
    "a tuple in a tuple, a million times": lambda: zipped(b"\x80\x02)" + b"\x85" * 1_000_000 + b"."),
    "that tuple as a key": lambda: zipped(b"\x80\x02})" + b"\x85" * 1_000_000 + b"Ns."),
    "lists of the same lists": lambda: zipped(b"\x80\x02]q\x00" + _doubling(60)),
    "a string that claims 2^60 bytes": lambda: zipped(b"\x80\x04\x8d" + struct.pack("<Q", 2**60) + b"x."),
    "a pickle of 100 MB": lambda: zipped(b"\x80\x02" + b"N0" * 50_000_000 + b"N."),
    "a dictionary in itself": lambda: zipped(b"\x80\x02}q\x00X\x05\x00\x00\x00modelh\x00s."),
    "a prefix of a million parts": lambda: zipped(_named("a." * 4_000_000 + "w"), **{"0": bytes(4)}),
    "keys that collide": lambda: zipped(
        b"\x80\x02}("
        + b"".join(b"\x8a\x0a" + (k * (2**61 - 1)).to_bytes(10, "little") + b"N" for k in range(10**5))
        + b"u."
    ),
    "a long integer as a key again and again": lambda: zipped(
        b"\x80\x02}\x8b" + struct.pack("<i", 15_000_000) + b"\x01" * 15_000_000 + b"q\x00Ns" + b"h\x00Ns" * 99 + b"."
    ),
    "a shape of long integers": lambda: zipped(tensor_pickle(1, (2**70,) * 60, (0,) * 60), **{"0": bytes(4)}),
    "a shape of a million dimensions": lambda: zipped(tensor_pickle(1, (1,) * 10**6, (1,) * 10**6), **{"0": bytes(4)}),
    "one byte string as many shapes": lambda: zipped(
        b"\x80\x04ctorch\nSize\nq\x00B"
        + struct.pack("<I", 2**22)
        + bytes(2**22)
        + b"\x85q\x01"
        + b"h\x00h\x01R" * 3000
        + b"."
    ),
    "one list of pairs as many dictionaries": lambda: zipped(
        b"\x80\x02ccollections\nOrderedDict\nq\x00]("
        + b"".join(b"](J" + struct.pack("<i", n) + b"Ne" for n in range(200_000))
        + b"e\x85q\x01"
        + b"h\x00h\x01R" * 2000
        + b"."
    ),
    "a view of the other sign": lambda: zipped(_negated(), **{"0": bytes(4)}),
    "a compressed entry": lambda: _compressed(),
    "entries that overlap": lambda: _overlapping(),
}


def _named(name: str) -> bytes:
    return tensor_pickle(1, (1,), (1,)).replace(
        b"X\x01\x00\x00\x00w", b"X" + struct.pack("<I", len(name)) + name.encode()
    )


def _negated() -> bytes:
    """torch.load would apply the sign; without it the network would be another."""
    buffer = io.BytesIO()
    torch.save({"w": torch._neg_view(torch.ones(1))}, buffer)
    with zipfile.ZipFile(buffer) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))


def _doubling(times: int) -> bytes:
    """[x, x] of [x, x] of ...: 2^times leaves for whoever walks them all."""
    found = b""
    for at in range(times):
        found += b"](h" + bytes([at]) + b"h" + bytes([at]) + b"eq" + bytes([at + 1])
    return found + b"."


def _compressed() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", tensor_pickle(10**8, (10**8,), (1,)))
        archive.writestr("x/data/0", bytes(4 * 10**8))
    return buffer.getvalue()


def _overlapping() -> bytes:
    """Many names in the directory for the same bytes."""
    whole = zipped(tensor_pickle(2**20, (2**20,), (1,)), **{"0": bytes(2**22)})
    start = whole.index(b"PK\x01\x02")
    end = whole.rindex(b"PK\x05\x06")
    entries = whole[start:end]
    count, size = struct.unpack("<HI", whole[end + 10 : end + 16])
    tail = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, count * 50, count * 50, size * 50, start, 0)
    return whole[:start] + entries * 50 + tail


@measurable
@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_within_the_declared_memory(tmp_path: Path, name: str) -> None:
    path = tmp_path / "bomb.pt"
    path.write_bytes(BOMBS[name]())
    reset_peak()
    before = peak()
    with pytest.raises(InputError) as error:
        open_model(ModelOptions(str(path), parse_architecture(SPEC, SMALL), ((1, 8, 8),)))
    assert peak() - before < MOST_MEMORY + 2 * path.stat().st_size
    assert "\n" not in str(error.value)


@measurable
def test_the_measure_of_memory_measures() -> None:
    reset_peak()
    before = peak()
    assert len(bytearray(3 * 10**8)) == 3 * 10**8
    assert 2.9e8 < peak() - before < 4e8


@measurable
@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["architecture"]["kwargs"].update(width=20_000),
        lambda d: d.update(architecture={"spec": "torchvision:resnet18", "kwargs": {"num_classes": 10**9}}),
        lambda d: d.update(
            architecture={"spec": "torchvision:regnet_x_400mf", "kwargs": {"num_classes": 2_500_000}}, weights={}
        ),
        lambda d: (
            d["architecture"]["kwargs"].update(width=900),
            d.update(weights=dict.fromkeys(map(str, range(2000)), torch.zeros(2**18))),
        ),
    ],
)
def test_a_state_that_asks_for_a_giant_network(tmp_path: Path, change: Callable[[Any], Any]) -> None:
    """Its factory is run without memory first."""
    data = torch.load(DIGITS, weights_only=True)
    change(data)
    torch.save(data, tmp_path / "giant.pt")
    reset_peak()
    before = peak()
    with pytest.raises(InputError, match=r"takes .* bytes, far more than its weights"):
        open_model(ModelOptions(str(tmp_path / "giant.pt")))
    assert peak() - before < MOST_MEMORY


@measurable
@pytest.mark.parametrize("shape", [(0,), (0,) * 10**6])
def test_safetensors_with_giant_headers(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """A million names, or dimensions, of nothing."""
    many = 10**6 if len(shape) == 1 else 9
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}
    header = json.dumps({str(n): entry for n in range(many)}).encode()
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    reset_peak()
    before = peak()
    with pytest.raises(InputError, match=r"its header is larger than 16 MiB"):
        read(tmp_path / "w.safetensors")
    assert peak() - before < MOST_MEMORY


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w.pt")
    with pytest.raises(InputError, match="no ordinary file"):
        read(tmp_path / "w.pt")
    with pytest.raises(InputError, match="no ordinary file"):
        read_arrays(tmp_path / "w.pt")


# The fuzzer


def corpus() -> dict[str, bytes]:
    """Small files of every kind that is read, made here."""
    weights = small_weights()
    found: dict[str, bytes] = {"weights.safetensors": safetensors.torch.save(weights)}
    for name, keywords in zip(("zip", "legacy"), FORMATS, strict=False):
        buffer = io.BytesIO()
        torch.save({"state_dict": {f"module.{key}": value for key, value in weights.items()}}, buffer, **keywords)
        found[f"{name}.pt"] = buffer.getvalue()
    state = open_model(ModelOptions(SPEC, parse_architecture(SPEC, SMALL), ((1, 8, 8),))).state
    state.history = [{"command": "train"}]
    buffer = io.BytesIO()
    torch.save(state.to_dict(), buffer)
    found["state.pt"] = buffer.getvalue()
    return found


def mutated(whole: bytes, draw: random.Random) -> bytes:
    """Change some bytes, or cut, double or swap pieces; in an archive also inside, with right checksums."""
    if whole.startswith(b"PK") and draw.random() < 0.6:
        return _mutated_inside(whole, draw)
    content = bytearray(whole)
    for _ in range(draw.choice((1, 1, 3, 30))):
        start, end = sorted(draw.randrange(len(content) + 1) for _ in range(2))
        match draw.randrange(4):
            case 0:
                content[start : start + 1] = bytes([draw.randrange(256)])
            case 1:
                del content[start : min(end, start + draw.choice((1, 8, 10**6)))]
            case 2:
                content[start:start] = content[start : min(end, start + 4096)]
            case _:
                content[start : start + 8] = draw.choice((bytes(8), b"\xff" * 8, b"\xff\xff\xff\x7f" * 2))
    return bytes(content)


def _mutated_inside(whole: bytes, draw: random.Random) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(buffer, "w") as new:
        victim = draw.choice([name for name in old.namelist() if name.endswith("data.pkl") or draw.random() < 0.1])
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, mutated(content, draw) if name == victim else content)
    return buffer.getvalue()


def cases(count: int) -> Iterator[tuple[int, str, bytes]]:
    for seed, (name, whole) in zip(range(count), _round(corpus()), strict=False):
        yield seed, name, mutated(whole, random.Random(seed))


def _round(found: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    while True:
        yield from found.items()


def verdict(opener: Callable[[Path], Any], path: Path) -> str:
    """`opened`, `refused` in one line, or what went wrong with the opener."""
    try:
        opener(path)
    except GregError as error:
        return "refused" if "\n" not in str(error) and error.exit_code == 4 else f"{error.exit_code}: {error}"
    except BaseException as error:
        return f"raised {type(error).__name__}: {error}"
    return "opened"


def opened(path: Path) -> None:
    arch = None if path.name == "state.pt" else parse_architecture(SPEC, SMALL)
    open_model(ModelOptions(str(path), arch, ((1, 8, 8),)))


@measurable
def test_two_hundred_damaged_files(tmp_path: Path) -> None:
    """Whatever bytes do, a file opens or is refused; where it opens, what is in it has the network's shapes."""
    found: collections.Counter[str] = collections.Counter()
    reset_peak()
    before = peak()
    for seed, name, content in cases(200):
        path = tmp_path / name
        path.write_bytes(content)
        said = verdict(opened, path)
        assert said in ("opened", "refused"), f"case {seed} ({name}): {said}"
        found[said] += 1
    assert found["refused"] > 120
    assert peak() - before < MOST_MEMORY


def test_the_fuzzer_finds_a_reader_that_trusts_its_files(tmp_path: Path) -> None:
    """Torch's own, and safetensors' without a net."""

    def trusting(path: Path) -> None:
        if path.suffix == ".safetensors":
            safetensors.torch.load(path.read_bytes())
        else:
            torch.load(path, weights_only=True)

    said = set()
    for _, name, content in cases(60):
        (tmp_path / name).write_bytes(content)
        said.add(verdict(trusting, tmp_path / name).partition(":")[0])
    assert any(word.startswith("raised") for word in said)


scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_subnormal=False)
keys = st.text(max_size=3) | st.integers(-999, 999)
plain = st.recursive(
    scalars | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(plain, st.sampled_from([2, 3, 4]))
def test_plain_values_are_unpickled_as_pickle_does(value: Any, protocol: int) -> None:
    assert PlainUnpickler(io.BytesIO(pickle.dumps(value, protocol))).load() == value


# Weights as found in the wild


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (lambda w: w, []),
        (lambda w: {"state_dict": w, "epoch": 3}, ["the weights under 'state_dict'"]),
        (lambda w: {"model": w, "model_ema": {}, "args": None}, ["the weights under 'model'"]),
        (lambda w: {f"module.{k}": v for k, v in w.items()}, ["names without 'module.'"]),
        (
            lambda w: {"model": {f"module._orig_mod.{k}": v for k, v in w.items()}},
            ["the weights under 'model'", "names without 'module.'", "names without '_orig_mod.'"],
        ),
        (
            lambda w: {"state_dict": {f"model.{k}": v for k, v in w.items()}, "hyper_parameters": {}},
            ["the weights under 'state_dict'", "names without 'model.'"],
        ),
    ],
)
def test_wrappers_and_prefixes_come_off(wrap: Callable[[Any], Any], said: list[str]) -> None:
    weights = {"conv.weight": torch.ones(2), "fc.bias": torch.ones(3)}
    found, words = unwrapped(wrap(weights), weights.keys())
    assert_same(found, weights)
    assert words == said


def test_a_prefix_of_the_networks_own_stays() -> None:
    weights = {"body.a": torch.ones(1), "body.b": torch.ones(1)}
    assert unwrapped({f"module.{k}": v for k, v in weights.items()}, weights.keys())[0].keys() == weights.keys()


@pytest.mark.parametrize("data", [{}, {"epoch": 3}, [1], {"state_dict": 5}, {"a": torch.ones(1), "b": 5}])
def test_files_without_weights_say_what_they_hold(data: Any) -> None:
    with pytest.raises(InputError, match="no weights are in it"):
        unwrapped(data, ["a"])


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.pt"])
def test_weights_fill_the_network_that_arch_names(tmp_path: Path, name: str) -> None:
    weights = {key: torch.full_like(value, 2) for key, value in small_weights().items()}
    if name.endswith("safetensors"):
        safetensors.torch.save_file(weights, tmp_path / name)
    else:
        torch.save({"state_dict": weights}, tmp_path / name, **FORMATS[name == "w.pth"])
    found = open_model(ModelOptions(str(tmp_path / name), parse_architecture(SPEC, SMALL), ((1, 8, 8),)))
    assert_same(dict(found.model.state_dict()), weights)
    assert not found.untrained
    assert found.digest == found.state.history[0]["input"]["sha256"]
    files.save(found.state, tmp_path / "state.pt", replace=False)
    assert_same(open_model(ModelOptions(str(tmp_path / "state.pt"))).state.weights, weights)
    with pytest.raises(InputError, match=r"is not a greg state file; if it holds weights, name their network"):
        open_model(ModelOptions(str(tmp_path / name)))
    wrong = parse_architecture(SPEC, ("in_channels=1", "width=3"))
    with pytest.raises(InputError, match=r"conv1\.weight is 2x1x3x3 .* the network wants 3x1x3x3"):
        open_model(ModelOptions(str(tmp_path / name), wrong, ((1, 8, 8),)))

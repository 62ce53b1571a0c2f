"""Unpickle to plain values. Nothing that a pickle names is ever imported or called.

torch.load(weights_only=True) is safe from running code, but not from memory (a pickle may ask it for a
bytearray of any size), refuses a whole checkpoint for one numpy number beside the weights, and makes tensors
before their storage is checked. Here every name is looked up in a table of our own. What is not in it, say an
argparse.Namespace or the class of a whole network, becomes an :class:`Inert` stand-in.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}


@dataclass(frozen=True)
class Inert:
    """Stands for an object of a class that is none of ours."""

    kind: str


@dataclass(frozen=True)
class Storage:
    """A flat piece of memory that a file says it holds."""

    key: str
    dtype: torch.dtype
    count: int

    @property
    def nbytes(self) -> int:
        return self.count * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class Claim:
    """A tensor as the pickle describes it: a view of a storage that has not been read yet."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def __post_init__(self) -> None:
        """Raise ValueError unless the storage holds as many elements as the shape says, at these strides."""
        numbers = (self.storage.count, self.offset, *self.size, *self.stride)
        if not all(type(number) is int and number >= 0 for number in numbers) or len(self.size) != len(self.stride):
            raise ValueError("a tensor with an impossible shape")
        held = self.storage.nbytes // self.dtype.itemsize
        count = math.prod(self.size)
        last = self.offset + sum((size - 1) * step for size, step in zip(self.size, self.stride, strict=True))
        if count and (count > held or last >= held):
            raise ValueError(f"a tensor of shape {self.size} has too little storage")


@dataclass(frozen=True)
class Named:
    """A name that a pickle mentions, and what calling it means here."""

    kind: str
    call: Callable[..., Any] | None = None


def _tensor(
    storage: Any, offset: int, size: Any, stride: Any, _grad: Any = None, _hooks: Any = None, bits: Any = None
) -> Claim:
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without a storage")
    if bits:
        raise ValueError("a conjugate or negated view; save a copy of it")
    return Claim(storage, storage.dtype, offset, _size(size), _size(stride))


def _typed_tensor(
    storage: Any, offset: int, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, bits: Any = None
) -> Claim:
    if not isinstance(dtype, torch.dtype):
        raise ValueError("a tensor without a type")
    return replace(_tensor(storage, offset, size, stride, grad, hooks, bits), dtype=dtype)


def _size(value: Any) -> tuple[int, ...]:
    if not isinstance(value, (tuple, list)) or len(value) > MOST_DIMENSIONS:
        raise ValueError("a tensor with an impossible shape")
    return tuple(value)


def _mapping(*given: Any) -> dict[Any, Any]:
    """An OrderedDict, of pairs or of nothing; a defaultdict's factory is not wanted."""
    pairs = given[0] if given and isinstance(given[0], list) else []
    return {_key(key): value for key, value in pairs}


def _key(value: Any) -> Any:
    """Hashing a tuple nested a million times kills Python, and integers can be made to collide."""
    small = isinstance(value, int) and abs(value) < 2**31
    if not (small or isinstance(value, (str, bytes, type(None)))):
        raise ValueError("a dictionary with strange keys")
    return value


def _of_class(function: Any, _cls: Any, arguments: Any, *_: Any) -> Any:
    """A tensor of a subclass, or one with attributes of its own."""
    if not isinstance(function, Named) or function.call is None:
        raise ValueError("a tensor of a class that is not known")
    return function.call(*arguments)


KNOWN: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _mapping,
    "collections.defaultdict": _mapping,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch._tensor._rebuild_from_type_v2": _of_class,
    "torch._utils._rebuild_parameter": lambda claim, *_: claim,
    "torch._utils._rebuild_parameter_with_state": lambda claim, *_: claim,
    "torch.Size": _size,
}


Step = Callable[[Any], None]
MOST_STEPS = 2**21
"""Opcodes in one pickle, and values handed to calls; a tensor takes about 40. Each is some hundred bytes at most."""
MOST_DIMENSIONS = 64
LONGEST_INTEGER = 10
"""Bytes: torch's magic number is that long. Larger ones are there to be hashed and multiplied for hours."""


def _counted(step: Step) -> Step:
    def run(unpickler: PlainUnpickler) -> None:
        unpickler.steps += 1
        if unpickler.steps > MOST_STEPS:
            raise ValueError("a pickle of more steps than any network needs")
        step(unpickler)

    return run


_Base: Any = pickle._Unpickler
"""The one written in Python: C's own makes room for a memo of any index that a pickle names."""


class PlainUnpickler(_Base):  # type: ignore[misc]
    """The standard library's unpickler, with the opcodes of protocol 2 to 4 that plain values need."""

    stack: list[Any]
    dispatch: ClassVar[dict[int, Step]] = {
        opcode[0]: _Base.dispatch[opcode[0]]
        for opcode in (
            pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.POP, pickle.POP_MARK, pickle.DUP,
            pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BININT, pickle.BININT1, pickle.BININT2,
            pickle.BINFLOAT, pickle.BINSTRING, pickle.SHORT_BINSTRING,
            pickle.BINBYTES, pickle.SHORT_BINBYTES, pickle.BINBYTES8, pickle.BINUNICODE,
            pickle.SHORT_BINUNICODE, pickle.BINUNICODE8, pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1,
            pickle.TUPLE2, pickle.TUPLE3, pickle.EMPTY_LIST, pickle.EMPTY_DICT, pickle.BINGET,
            pickle.LONG_BINGET, pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE, pickle.GLOBAL,
            pickle.STACK_GLOBAL, pickle.BINPERSID,
        )
    }  # fmt: skip

    def __init__(self, file: io.BytesIO, encoding: str = "utf-8") -> None:
        super().__init__(file, encoding=encoding)
        self.steps = 0
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        kind = f"{module}.{name}"
        if module in ("torch", "torch.cuda", "torch.storage") and name in DTYPES:
            return DTYPES[name]
        dtype = getattr(torch, name, None) if module == "torch" and name.isidentifier() else None
        return dtype if isinstance(dtype, torch.dtype) else Named(kind, KNOWN.get(kind))

    def persistent_load(self, record: Any) -> Storage | Named:
        if record[0] == "module" and isinstance(record[1], Named):
            return record[1]  # a class with its source text, before torch 1.6
        kind, dtype, key, _place, count = record[:5]
        if kind != "storage" or not isinstance(dtype, torch.dtype) or type(key) is not str or type(count) is not int:
            raise ValueError("a storage with an impossible record")
        if len(record) > 5 and record[5] is not None:
            raise ValueError("a storage that is a view of another")
        storage = Storage(key, dtype, count)
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError(f"storage {key} is claimed with two sizes")
        return storage

    def _long1(self) -> None:
        self._integer(self.read(1)[0])

    def _long4(self) -> None:
        self._integer(int.from_bytes(self.read(4), "little"))

    def _integer(self, length: int) -> None:
        if length > LONGEST_INTEGER:
            raise ValueError("an integer of more than 80 bits")
        self.stack.append(int.from_bytes(self.read(length), "little", signed=True))

    def _call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if isinstance(arguments, tuple):
            self.steps += sum(len(value) for value in arguments if isinstance(value, (str, bytes, tuple, list, dict)))
        if not isinstance(function, Named) or not isinstance(arguments, tuple):
            raise ValueError("a call of something that is no function")
        self.stack.append(Inert(function.kind) if function.call is None else function.call(*arguments))

    def _append(self) -> None:
        self._extend([self.stack.pop()])

    def _appends(self) -> None:
        self._extend(self.pop_mark())

    def _extend(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)
        elif not isinstance(self.stack[-1], Inert):
            raise ValueError("an appendix to something that is no list")

    def _setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key, value])

    def _setitems(self) -> None:
        self._update(self.pop_mark())

    def _update(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], dict):
            self.stack[-1].update({_key(key): value for key, value in zip(items[::2], items[1::2], strict=True)})
        elif not isinstance(self.stack[-1], Inert):
            raise ValueError("entries of something that is no dictionary")

    def _set(self) -> None:
        self.stack.append(Inert("builtins.set"))

    def _additems(self) -> None:
        self.pop_mark()

    def _frozenset(self) -> None:
        self.pop_mark()
        self._set()

    def _build(self) -> None:
        state = self.stack.pop()
        self.set_state(self.stack[-1], state)

    def set_state(self, value: Any, state: Any) -> None:
        """Attributes are of no use here: a state dict's hold module versions, any other object is a stand-in."""

    dispatch[pickle.LONG1[0]] = _long1
    dispatch[pickle.LONG4[0]] = _long4
    dispatch[pickle.REDUCE[0]] = _call
    dispatch[pickle.NEWOBJ[0]] = _call
    dispatch[pickle.APPEND[0]] = _append
    dispatch[pickle.APPENDS[0]] = _appends
    dispatch[pickle.SETITEM[0]] = _setitem
    dispatch[pickle.SETITEMS[0]] = _setitems
    dispatch[pickle.BUILD[0]] = _build
    dispatch[pickle.EMPTY_SET[0]] = _set
    dispatch[pickle.ADDITEMS[0]] = _additems
    dispatch[pickle.FROZENSET[0]] = _frozenset
    for _code, _step in dispatch.items():
        dispatch[_code] = _counted(_step)

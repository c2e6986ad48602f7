"""Pickles that hold nothing but data, read by a small machine of its own: no code of a file is ever called.

Python's pickle imports what a file names and calls it. Here the opcodes of dicts, lists, tuples, numbers, strings and
numpy arrays are interpreted, and every other opcode and every other name is refused. Nothing is allocated by what a
file announces: work and memory grow with the bytes that are there.
"""

from __future__ import annotations

import math
import pickletools
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from fheinfer.data.files import one_line
from fheinfer.errors import DatasetError

MAX_OPCODES = 5_000_000
MAX_DIMENSIONS = 8

_DTYPE = re.compile(r"([iuf][1248]|b1)")
_MODULES = ("numpy.core", "numpy._core")
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = frozenset(
    [
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "FLOAT",
        "BINFLOAT",
        "UNICODE",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "BYTEARRAY8",
    ]
)
_PUTS, _GETS = {"PUT", "BINPUT", "LONG_BINPUT"}, {"GET", "BINGET", "LONG_BINGET"}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Refused(ValueError):
    """Why a pickle is not read, in words for the message."""


class _Mark:
    pass


@dataclass
class _Name:
    """A function or class that the file names; it stands for itself and is never called."""

    name: str


@dataclass
class _Dtype:
    code: str
    order: str = "|"


@dataclass
class _Array:
    value: np.ndarray[Any, Any] | None = None


def load(data: bytes, name: str) -> Any:
    """What a pickle of plain data holds: dicts, lists, tuples, numbers, strings, bytes and numpy arrays.

    Strings of Python 2 come back as str, decoded as Latin-1.

    Args:
        name: of the file, for messages.

    Raises:
        DatasetError: no pickle, truncated, or one that holds or does anything else.
    """
    try:
        return _plain(_Machine().run(data))
    except _Refused as error:
        raise DatasetError(f"{name}: a pickle that holds more than data ({error}); it is not read") from None
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError, RecursionError) as error:
        raise DatasetError(f"{name}: a damaged pickle ({one_line(error, 80)}); get the file again") from None


class _Machine:
    """Interprets one pickle. Lists and dicts are shared as in the file, so no loop of a file makes them grow."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if count > MAX_OPCODES:
                raise _Refused(f"more than {MAX_OPCODES:,} opcodes")
            if opcode.name == "STOP":
                return self.stack.pop()
            self._step(opcode.name, argument)
        raise ValueError("no end")

    def _step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _PUTS:
            self.memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in _GETS:
            stack.append(self.memo[argument])
        elif name == "MARK":
            stack.append(_Mark())
        elif name in _TUPLES:
            stack.append(tuple(self._last(_TUPLES[name])))
        elif name in ("TUPLE", "LIST", "EMPTY_LIST", "DICT", "EMPTY_DICT"):
            stack.append(self._collection(name))
        elif name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS"):
            self._add(name)
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            module, _, attribute = (argument if name == "GLOBAL" else " ".join(self._last(2))).rpartition(" ")
            stack.append(_named(module, attribute))
        elif name == "REDUCE":
            function, arguments = self._last(2)
            stack.append(_called(function, arguments))
        elif name == "BUILD":
            target, state = self._last(2)
            stack.append(_built(target, state))
        elif name not in ("PROTO", "FRAME"):
            raise _Refused(f"opcode {name}")

    def _last(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise ValueError("nothing on the stack")
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def _to_mark(self) -> list[Any]:
        for index in range(len(self.stack) - 1, -1, -1):
            if isinstance(self.stack[index], _Mark):
                taken = self.stack[index + 1 :]
                del self.stack[index:]
                return taken
        raise ValueError("no mark")

    def _collection(self, name: str) -> Any:
        items = [] if name.startswith("EMPTY") else self._to_mark()
        if name == "TUPLE":
            return tuple(items)
        return items if name.endswith("LIST") else _pairs(items)

    def _add(self, name: str) -> None:
        count = {"APPEND": 1, "SETITEM": 2}.get(name)
        items = self._to_mark() if count is None else self._last(count)
        target = self.stack[-1]
        if name.startswith("APPEND") and isinstance(target, list):
            target.extend(items)
        elif name.startswith("SETITEM") and isinstance(target, dict):
            target.update(_pairs(items))
        else:
            raise ValueError("adds to what is no list or dict")


def _pairs(items: list[Any]) -> dict[Any, Any]:
    keys = [key.decode("latin-1") if isinstance(key, bytes) else key for key in items[::2]]
    if not all(isinstance(key, str | int) for key in keys):
        raise _Refused("a key that is no string")
    return dict(zip(keys, items[1::2], strict=True))


def _named(module: str, attribute: str) -> _Name:
    for ours in _MODULES:
        if (module, attribute) in ((f"{ours}.multiarray", "_reconstruct"), (f"{ours}.numeric", "_frombuffer")):
            return _Name(attribute)
    if (module, attribute) in (("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")):
        return _Name(attribute)
    raise _Refused(f"the name {one_line(f'{module}.{attribute}', 60)}")


def _called(function: Any, arguments: Any) -> Any:
    name = function.name if isinstance(function, _Name) else None
    if name == "_reconstruct":
        return _Array()
    if name == "_frombuffer":
        raw, dtype, shape, _order = arguments
        return _Array(_array(shape, dtype, raw, _order == "F"))
    if name == "dtype" and isinstance(arguments[0], str) and _DTYPE.fullmatch(arguments[0]):
        return _Dtype(arguments[0])
    if name == "encode" and arguments[1] == "latin1":
        return str(arguments[0]).encode("latin-1")
    what = f"arrays of {one_line(str(arguments[0]), 20)}" if name == "dtype" else f"a call of {name}"
    raise _Refused(what)


def _built(target: Any, state: Any) -> Any:
    if isinstance(target, _Dtype):
        if state[1] not in ("<", ">", "|", "=") or any(part is not None for part in state[2:5]):
            raise _Refused("arrays of records")
        target.order = state[1]
        return target
    if isinstance(target, _Array):
        _version, shape, dtype, fortran, raw = state
        target.value = _array(shape, dtype, raw, bool(fortran))
        return target
    raise _Refused("an object with a state")


def _array(shape: Any, dtype: Any, raw: Any, fortran: bool) -> np.ndarray[Any, Any]:
    data = raw.encode("latin-1") if isinstance(raw, str) else raw
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray):
        raise _Refused("an array of objects")
    if not isinstance(shape, tuple) or len(shape) > MAX_DIMENSIONS or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("an array without a shape")
    kind = np.dtype(dtype.order.replace("|", "=") + dtype.code)
    if math.prod(shape) * kind.itemsize != len(data):
        raise ValueError("an array of another size than its shape")
    return np.frombuffer(bytes(data), kind).reshape(shape, order="F" if fortran else "C")


def _plain(value: Any) -> Any:
    """Arrays in the place of what built them: in a dict of the top, the only place that anybody looks at."""
    if isinstance(value, _Array):
        if value.value is None:
            raise ValueError("an array without data")
        return value.value
    if isinstance(value, dict):
        return {key: _plain(item) if isinstance(item, _Array) else item for key, item in value.items()}
    if isinstance(value, _Name | _Dtype | _Mark):
        raise _Refused("a function")
    return value

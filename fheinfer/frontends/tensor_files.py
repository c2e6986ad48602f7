"""Files of tensors by name, told by their content: PyTorch (zip and older), safetensors, numpy archives.

No code of a file is ever run: pickles are read by PyTorch's `weights_only`, and what needs more is refused with the
two lines of Python that make a plain file of it. Every size is bounded before memory is asked for.
"""

from __future__ import annotations

import io
import json
import math
import pickletools
import re
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from fheinfer.data.files import one_line, open_given, printable
from fheinfer.errors import WeightsError
from fheinfer.optional import needs_torch

F32 = npt.NDArray[np.float32]

MAX_BYTES = 512 * 2**20
"""Of a file, and of what it unpacks to."""

_MAX_DIRECTORY = 16 * 2**20  # of a zip archive: a hundred thousand names
_MAX_PICKLE = 8 * 2**20  # names and shapes of ten thousands of tensors

_TORCH_MAGIC = bytes.fromhex("6cfc9c46f9206aa85019")  # of files of torch.save that are no zip archives
_ADVICE = "save a state_dict with torch.save"
_LOAD = 'torch.load({}, map_location="cpu", weights_only=False)'

_OTHER_KINDS: tuple[tuple[bytes, str], ...] = (
    (b"\x93NUMPY", "one array without a name; save all of them with numpy.savez"),
    (b"\x89HDF", "an HDF5 file, as Keras writes; save its arrays with numpy.savez"),
    (b"\x1f\x8b", "compressed by gzip; unpack it first"),
    (b"\xfd7zXZ", "compressed by xz; unpack it first"),
    (b"BZh", "compressed by bzip2; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd; unpack it first"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself; run `git lfs pull`"),
    (b"<", "a web page, not the file itself; download it again"),
)


@dataclass(frozen=True)
class Contents:
    """What a file holds.

    tree      tensors by name, or mappings of such with other values beside them
    tensor    the class that its tensors have
    array     tensor -> float32 array, or None where its numbers are not real; raises WeightsError
    metadata  words that a safetensors file holds
    """

    tree: Any
    tensor: type
    array: Callable[[Any], F32 | None]
    metadata: Mapping[str, str] = field(default_factory=dict)


def read(path: Path) -> Contents:
    """The content of a file of at most 512 MiB, whatever its name.

    Raises:
        WeightsError: missing, too large, damaged, of another kind, holds more than tensors, or PyTorch is needed and
            not installed.
    """
    name = printable(path)
    with open_given(path, MAX_BYTES, WeightsError, "a file of weights") as file:
        start = file.read(512)
        file.seek(0)
        if start.startswith(b"PK"):
            return _zip(path, file)
        if re.match(rb"\x80[\x02-\x05]", start):
            if _TORCH_MAGIC not in start[:32]:
                raise WeightsError(f"{name}: a pickle that torch.save did not write; {_ADVICE}")
            if not _is_small_pickle(file):
                raise WeightsError(f"{name}: damaged, or holds far more than tensors; {_ADVICE}")
            return _torch(path, file)
        if len(start) > 8 and start[8:9] == b"{":
            return _safetensors(name, file)
        if start[257:262] == b"ustar":
            raise WeightsError(_tar(path, file))
    for magic, words in _OTHER_KINDS:
        if start.startswith(magic):
            raise WeightsError(f"{name}: {words}")
    raise WeightsError(
        f"{name}: {'an empty file' if not start else 'no kind of weights file that is known'}; bring a state_dict by "
        "torch.save, a safetensors file or a numpy archive (.npz)"
    )


def _zip(path: Path, file: BinaryIO) -> Contents:
    name = printable(path)
    try:
        if _directory_size(file) > _MAX_DIRECTORY:
            raise WeightsError(f"{name}: an archive of too many files")
        file.seek(0)
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > MAX_BYTES:
                raise WeightsError(f"{name}: unpacks to more than {MAX_BYTES // 2**20} MiB")
            last = {entry.filename.rpartition("/")[2] for entry in entries}
            if any(part.endswith(".npy") for part in last):
                return _npz(archive, entries)
    except WeightsError:
        raise
    except Exception as error:  # zip, zlib and numpy's header each raise their own kinds
        raise WeightsError(f"{name}: not a whole archive ({one_line(error)})") from None
    if "constants.pkl" in last:
        raise WeightsError(
            f"{name}: a TorchScript program; make a plain file of its tensors: "
            f"{_two_lines(path, 'torch.jit.load({})', 'c.state_dict()')}"
        )
    if "data.pkl" in last:
        if any(entry.file_size > _MAX_PICKLE for entry in entries if entry.filename.endswith("data.pkl")):
            raise WeightsError(f"{name}: holds far more than tensors; {_ADVICE}")
        file.seek(0)
        return _torch(path, file)
    if not last:
        raise WeightsError(f"{name}: an archive without arrays")
    keras = "config.json" in last
    raise WeightsError(
        f"{name}: {'a Keras file; save its arrays with numpy.savez' if keras else 'a zip archive; unpack it first'}"
    )


def _directory_size(file: BinaryIO) -> int:
    """Bytes that the list of files in a zip archive says it has, in either form: it is read in whole."""
    size = file.seek(0, io.SEEK_END)
    start = file.seek(max(0, size - 66_000))
    tail = file.read()
    at = tail.rfind(b"PK\5\6")
    result = struct.unpack_from("<I", tail, at + 12)[0] if at >= 0 and at + 16 <= len(tail) else 0
    if at >= 20 and tail[at - 20 : at - 16] == b"PK\6\7":  # zip64
        offset = struct.unpack_from("<Q", tail, at - 12)[0]
        for place in {offset, start + at - 76}:  # as it says, and where it must stand
            if 0 <= place <= size - 56:
                file.seek(place)
                result = max(result if result != 2**32 - 1 else 0, struct.unpack_from("<Q", file.read(56), 40)[0])
    return int(result)


def _npz(archive: zipfile.ZipFile, entries: list[zipfile.ZipInfo]) -> Contents:
    tree: dict[str, npt.NDArray[Any]] = {}
    for entry in entries:
        data = archive.read(entry)  # no more than it says, of which the sum is bounded
        file = io.BytesIO(data)
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(file)
        if math.prod(shape) * dtype.itemsize > len(data):
            raise ValueError(f"{printable(entry.filename)} promises more than it holds")
        file.seek(0)
        tree[entry.filename.removesuffix(".npy")] = np.lib.format.read_array(file, allow_pickle=False)
    return Contents(tree, np.ndarray, _numpy_array)


def _numpy_array(array: npt.NDArray[Any]) -> F32 | None:
    if array.dtype.kind != "f":
        return None
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which is refused
        return array.astype(np.float32)


def _safetensors(name: str, file: BinaryIO) -> Contents:
    """Read from its bytes: numpy has no bfloat16."""
    from safetensors import SafetensorError, deserialize

    data = file.read(MAX_BYTES + 1)
    try:
        tree = {key: _Raw(**tensor) for key, tensor in deserialize(data)}  # type: ignore[no-untyped-call]
        header = json.loads(data[8 : 8 + struct.unpack_from("<Q", data)[0]])
    except (SafetensorError, ValueError, TypeError, RecursionError) as error:
        raise WeightsError(f"{name}: not a whole safetensors file ({one_line(error)})") from None
    return Contents(tree, _Raw, _raw_array, header.get("__metadata__") or {})


@dataclass(frozen=True)
class _Raw:
    """A tensor of a safetensors file."""

    shape: list[int]
    dtype: str
    data: bytes


def _raw_array(raw: _Raw) -> F32 | None:
    if raw.dtype == "BF16":  # the upper half of a float32
        wide = np.frombuffer(raw.data, "<u2").astype(np.uint32) << 16
        return wide.view(np.float32).reshape(raw.shape)
    if raw.dtype in ("F16", "F32", "F64"):
        return _numpy_array(np.frombuffer(raw.data, f"<f{int(raw.dtype[1:]) // 8}").reshape(raw.shape))
    if raw.dtype.startswith("F"):
        raise WeightsError(f"is of type {raw.dtype}, which is not read; save it as float32")
    return None


def _torch(path: Path, file: BinaryIO) -> Contents:
    name = printable(path)
    with needs_torch(f"{name}: a file of torch.save; reading it", WeightsError):
        import torch
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch remarks on odd pickles; here they load or they are refused
            tree = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # bad pickles raise whatever they like; weights_only keeps them from running code
        raise WeightsError(_refusal(path, file, str(error))) from None
    return Contents(tree, torch.Tensor, _torch_array)


def _torch_array(tensor: Any) -> F32 | None:
    import torch

    if tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized or tensor.device.type != "cpu":
        raise WeightsError("is sparse, nested, quantised or empty of values; save it as a dense float32 tensor")
    if tensor.numel() > MAX_BYTES // 4:  # strides let a small file describe a huge tensor
        raise WeightsError(f"has {tensor.numel():,} numbers, more than are read")
    if not tensor.is_floating_point():
        return None
    array: F32 = tensor.detach().float().numpy()
    return array


def _refusal(path: Path, file: BinaryIO, message: str) -> str:
    """Why PyTorch refused a file, in one line, with what to do."""
    name = printable(path)
    objects = re.search(r"GLOBAL ([\w.]+)", message) or re.search(r"(?:type|class) ['\"]?([\w.]+)['\"]? ", message)
    if "nsupported" not in message:
        return f"{name}: not a whole file of torch.save ({one_line(_reason(message))}); {_ADVICE}"
    what = f" ({printable(objects[1], 80)})" if objects else ", or an unusual pickle,"
    tensors = (
        "{k: v.state_dict() if hasattr(v, 'state_dict') else v for k, v in c.items() "
        "if isinstance(v, (dict, torch.Tensor)) or hasattr(v, 'state_dict')}"
    )
    made = tensors if _is_mapping(file) else "c.state_dict()"
    return (
        f"{name}: holds Python objects{what} beside tensors, and reading those runs code; "
        f"if you trust the file, make a plain one where that code can be imported: "
        f"{_two_lines(path, _LOAD, made)}"
    )


def _reason(message: str) -> str:
    """The part of torch's message that is about the file."""
    return message.rpartition("WeightsUnpickler error: ")[2].strip() or message


def _two_lines(path: Path, load: str, tensors: str) -> str:
    """Python for a user to run, its two lines joined by a semicolon; names that are not UTF-8 as escapes."""
    given = str(path) if len(str(path)) <= 200 else path.name
    plain = str(Path(given).with_name(f"{Path(given).name.partition('.')[0]}-plain.pt"))
    return f"import torch; c = {load.format(repr(given))}; torch.save({tensors}, {plain!r})"


def _is_small_pickle(file: BinaryIO) -> bool:
    """Whether the pickles of a file of torch.save that is no zip archive are whole and small; nothing is run."""
    file.seek(0)
    stream = io.BytesIO(file.read(_MAX_PICKLE))
    file.seek(0)
    try:
        for _ in range(5):  # magic number, version, system, content, names of the storages behind them
            for _ in pickletools.genops(stream):
                pass
    except Exception:  # what is damaged may raise anything
        return False
    return True


def _is_mapping(file: BinaryIO) -> bool:
    """Whether the content of a file of torch.save is a mapping, by its first opcodes; nothing is run."""
    try:
        file.seek(0)
        if file.read(2) == b"PK":
            with zipfile.ZipFile(file) as archive:
                entry = next(e for e in archive.namelist() if e.rpartition("/")[2] == "data.pkl")
                stream = io.BytesIO(archive.read(entry))
        else:
            file.seek(0)
            stream = io.BytesIO(file.read(_MAX_PICKLE))
            for _ in range(3):  # magic number, version, system
                list(pickletools.genops(stream))
        skipped = {"PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "MARK"}
        code, argument = next((op.name, arg) for op, arg, _ in pickletools.genops(stream) if op.name not in skipped)
    except Exception:  # damaged in some other way
        return False
    return code in ("EMPTY_DICT", "DICT") or "collections" in str(argument)


def _tar(path: Path, file: BinaryIO) -> str:
    """What to do with a tar archive: PyTorch reads its own only by running code."""
    name, members = printable(path), []
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for _ in range(8):
                if (member := archive.next()) is None:
                    break
                members.append(member.name)
    except (tarfile.TarError, ValueError, OSError) as error:
        return f"{name}: not a whole tar archive ({one_line(error)})"
    if {"storages", "tensors", "pickle"} <= set(members):
        return (
            f"{name}: PyTorch's oldest format, and reading it runs code; if you trust the file, make a plain one: "
            f"{_two_lines(path, _LOAD, 'c')}"
        )
    shown = ", ".join(printable(member, 60) for member in members[:3])
    return f"{name}: a tar archive ({shown}); unpack it and bring the file in it"

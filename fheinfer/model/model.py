"""Trained weights, checked once when they are made: in and out of safetensors, and from other people's files.

A weights file is a safetensors file. Its tensors are float32 under the graph's weight names; its metadata holds
`network`, and as JSON `mean`, `std`, `ranges`, `provenance`, and `checksum`, a hash over all of it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from fheinfer.errors import StorageError, UnknownNetworkError, WeightsError
from fheinfer.frontends import zoo
from fheinfer.model.graph import Graph
from fheinfer.optional import needs_torch

F32 = npt.NDArray[np.float32]

MAX_BYTES = 512 * 2**20
"""Larger files are refused unread; ResNet20 is 1.1 MB."""

_FORMAT = "fheinfer-weights-1"
# Normalisations of well-known training scripts.
_CIFAR: tuple[tuple[float, ...], tuple[float, ...]] = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
_IMAGENET: tuple[tuple[float, ...], tuple[float, ...]] = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, eq=False)
class Weights:
    """Arrays for every weight name of `graph`.

    arrays       name -> float32, read-only, shapes as `shapes(graph)` says, all finite, variances not negative
    mean, std    the input is (picture / 255 - mean) / std, a channel, or (x - mean) / std a feature
    ranges       activation -> largest |input| seen on training images; empty where it was never measured
    provenance   where they come from, as words

    Raises:
        WeightsError: naming the tensor that is missing, unknown, misshapen or not finite.
    """

    graph: Graph
    arrays: Mapping[str, F32]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    ranges: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        fixed = {
            "arrays": _checked_arrays(self.graph, self.arrays),
            "mean": _normal("mean", self.mean, self.graph),
            "std": _normal("std", self.std, self.graph, positive=True),
            "ranges": _checked_ranges(self.graph, self.ranges),
            "provenance": MappingProxyType({str(k): str(v) for k, v in self.provenance.items()}),
        }
        for name, value in fixed.items():
            object.__setattr__(self, name, value)

    @property
    def network(self) -> str:
        return self.graph.name

    @cached_property
    def identity(self) -> str:
        """SHA-256 (hex) over names, shapes and bytes of the arrays, and the normalisation."""
        digest = hashlib.sha256(json.dumps([self.mean, self.std]).encode())
        for name in sorted(self.arrays):
            array = self.arrays[name]
            digest.update(json.dumps([name, array.shape]).encode())
            digest.update(array.astype("<f4", copy=False).tobytes())
        return digest.hexdigest()

    def _checksum(self) -> str:
        rest = [self.identity, self.network, sorted(self.ranges.items()), sorted(self.provenance.items())]
        return hashlib.sha256(json.dumps(rest).encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Writes a safetensors file: a new one replaces `path` at once, or `path` stays as it was.

        Raises:
            StorageError: the disk is full or the folder cannot be written.
        """
        from safetensors.numpy import save

        metadata = {"format": _FORMAT, "network": self.network, "checksum": self._checksum()}
        for name in ("mean", "std", "ranges", "provenance"):
            value = getattr(self, name)
            metadata[name] = json.dumps(dict(value) if isinstance(value, Mapping) else value)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(save(dict(self.arrays), metadata))
            temporary.replace(path)
        except OSError as error:
            raise StorageError(f"{path}: cannot write the weights ({error.strerror})") from None
        finally:
            with suppress(OSError):  # on a read-only disk even this fails
                temporary.unlink(missing_ok=True)


def load(path: Path, graph: Graph | None = None) -> Weights:
    """Weights that `Weights.save` wrote, for `graph` or else for the zoo's network named in the file.

    Raises:
        WeightsError: missing, truncated, changed, of another format, or not for this graph.
    """
    arrays, metadata = _read_safetensors(path)
    if metadata.get("format") != _FORMAT:
        raise WeightsError(f"{path}: safetensors, but not of fheinfer; bring it in with `fheinfer weights import`")
    try:
        weights = Weights(graph or zoo.network(metadata["network"]), arrays,
                          *(json.loads(metadata[name]) for name in ("mean", "std", "ranges", "provenance")))
        checksum = metadata["checksum"]
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError, UnknownNetworkError) as error:
        raise WeightsError(f"{path}: damaged metadata ({error})") from None
    if weights.network != metadata["network"]:
        raise WeightsError(f"{path}: weights of {metadata['network']!r}, not of {weights.network!r}")
    if weights._checksum() != checksum:
        raise WeightsError(f"{path}: changed since it was written; get the file again")
    return weights


def import_file(path: Path, network: str | None = None, mean: Sequence[float] | None = None,
                std: Sequence[float] | None = None, data: Path | None = None) -> Weights:
    """Weights from a PyTorch state_dict (.pt, .pth, .th), numpy arrays (.npz) or any safetensors file (our own, too).

    Understood: `module.` prefixes, a checkpoint with a `state_dict` in it, `linear` for `fc`, and networks with
    option A shortcuts, which become the constant convolutions they are. Without `mean` and `std`, a network with
    `linear` is taken to be normalised as ImageNet is, others as CIFAR-10 usually is: the scripts these come from do so.
    Without `network`, our own files say what they are of and others are of resnet20.
    With a `data` folder the ReLU ranges are measured on 10,000 training images.

    Raises:
        WeightsError: not a file of weights, or not of this network.
        UnknownNetworkError, DatasetError: `network` or `data` cannot be used.
    """
    graph = zoo.network(network) if network else None
    if path.suffix.lower() == ".safetensors" and _read_safetensors(path)[1].get("format") == _FORMAT:
        weights = load(path, graph)
        weights = replace(weights, mean=tuple(mean or weights.mean), std=tuple(std or weights.std))
    else:
        weights = _foreign(path, graph or zoo.network("resnet20"), mean, std)
    if data is None:
        return weights
    with needs_torch("measuring ranges"):
        from fheinfer.data import datasets as dataset
        from fheinfer.train import calibrate

    return calibrate.with_ranges(weights, dataset.load(data, "train"))


def _foreign(path: Path, graph: Graph, mean: Sequence[float] | None, std: Sequence[float] | None) -> Weights:
    try:
        read = _READERS[path.suffix.lower()]
    except KeyError:
        raise WeightsError(f"{path}: unknown kind of weights file; known are {', '.join(_READERS)}") from None
    found = {name.removeprefix("module."): array for name, array in read(path).items()}
    usual = _IMAGENET if "linear.weight" in found else _CIFAR
    arrays = {(f"fc{name[6:]}" if name.startswith("linear.") else name): array for name, array in found.items()
              if not name.endswith("num_batches_tracked")}
    try:
        return Weights(graph, _option_a(graph, arrays) | arrays, tuple(mean or usual[0]), tuple(std or usual[1]),
                       provenance={"imported from": path.name})
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None


def shapes(graph: Graph) -> dict[str, tuple[int, ...]]:
    """Weight name -> shape, in graph order."""
    outputs = graph.shapes()
    result: dict[str, tuple[int, ...]] = {}
    for node in graph:
        for role, name in node.weights.items():
            channels = outputs[node.name][0]
            if node.op == "paf":
                result[name] = (sum((d + 1) // 2 for d in node.attrs["degrees"]),) if role == "coefficients" else (1,)
            elif node.op == "herpn" and role in ("mean", "var"):
                result[name] = (2, channels)
            elif role != "weight" or node.op in ("batch_norm", "herpn"):
                result[name] = (channels,)
            elif node.op == "conv2d":
                result[name] = (channels, outputs[node.inputs[0]][0], node.attrs["kernel"], node.attrs["kernel"])
            else:
                result[name] = (channels, math.prod(outputs[node.inputs[0]]))
    return result


def _checked_arrays(graph: Graph, arrays: Mapping[str, npt.NDArray[Any]]) -> Mapping[str, F32]:
    expected = shapes(graph)
    for name in arrays:
        if name not in expected:
            raise WeightsError(f"unknown tensor {name!r}: not a weight of {graph.name}")
    checked: dict[str, F32] = {}
    for name, shape in expected.items():
        if name not in arrays:
            raise WeightsError(f"tensor {name!r} is missing")
        if arrays[name].shape != shape or arrays[name].dtype.kind != "f":
            raise WeightsError(f"tensor {name!r} is {arrays[name].dtype} {arrays[name].shape}, expected floats {shape}")
        with np.errstate(over="ignore"):  # too large for float32 becomes infinite and is refused below
            array = np.array(arrays[name], dtype=np.float32, order="C")  # files and hashes know no other
        if not np.isfinite(array).all():
            raise WeightsError(f"tensor {name!r} holds NaN or infinite values")
        array.flags.writeable = False
        checked[name] = array
    for node in graph:
        if "var" in node.weights and checked[node.weights["var"]].min() < 0:
            raise WeightsError(f"tensor {node.weights['var']!r} holds a negative variance")
    return MappingProxyType(checked)


def _checked_ranges(graph: Graph, ranges: Mapping[str, float]) -> Mapping[str, float]:
    if ranges and set(ranges) != {node.name for node in graph.activations}:
        raise WeightsError("the ranges are not those of the network's activations")
    checked = {str(name): float(value) for name, value in ranges.items()}
    if not all(0 <= value < math.inf for value in checked.values()):
        raise WeightsError("a range is not a finite positive number")
    return MappingProxyType(checked)


def _normal(name: str, values: Sequence[float], graph: Graph, positive: bool = False) -> tuple[float, ...]:
    numbers, shape = tuple(float(value) for value in values), graph.input.attrs["shape"]
    if len(numbers) != shape[0] or not all(math.isfinite(n) and (n > 0 or not positive) for n in numbers):
        raise WeightsError(f"{name} must be {shape[0]} {'positive ' if positive else ''}numbers, one a "
                           f"{'colour channel' if len(shape) == 3 else 'feature'}")
    return numbers


def _option_a(graph: Graph, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, F32]:
    """The shortcut x[:, :, ::2, ::2] between zero channels, as a 1x1 convolution and a batch norm that does nothing.

    Returns nothing for a network that brings shortcuts of its own.
    """
    result: dict[str, F32] = {}
    expected = shapes(graph)
    for name, shape in expected.items():
        if ".downsample.0." in name:
            out, channels = shape[:2]
            matrix = np.zeros(shape, np.float32)
            first = (out - channels) // 2  # as many zero channels before as after
            matrix[first + np.arange(channels), np.arange(channels)] = 1
            result[name] = matrix
    for node in graph:
        if node.op == "batch_norm" and ".downsample." in node.name:
            fill = {"weight": 1.0, "bias": 0.0, "mean": 0.0, "var": 1.0 - node.attrs["eps"]}
            result |= {name: np.full(expected[name], fill[role], np.float32) for role, name in node.weights.items()}
    return {} if result.keys() & arrays.keys() else result


def _size_checked(path: Path) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from None
    if not path.is_file() or size > MAX_BYTES:
        raise WeightsError(f"{path}: not a file of at most {MAX_BYTES // 2**20} MiB")


def _read_safetensors(path: Path) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    _size_checked(path)
    try:
        with safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path}: not a whole safetensors file ({_short(error)})") from None


def _read_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    _size_checked(path)
    try:
        with zipfile.ZipFile(path) as archive:  # an archive can promise far more than its own size
            if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:
                raise WeightsError(f"{path}: unpacks to more than {MAX_BYTES // 2**20} MiB")
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except WeightsError:
        raise
    except Exception as error:  # zip, zlib and the header's parser each raise their own kinds
        raise WeightsError(f"{path}: not a whole numpy archive ({_short(error)})") from None


def _read_torch(path: Path) -> dict[str, npt.NDArray[Any]]:
    _size_checked(path)
    with needs_torch(f"{path}: reading it", WeightsError):
        import torch
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch remarks on odd pickles; here they load or they are refused
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bad pickles raise whatever they like; weights_only keeps them from running code
        raise WeightsError(f"{path}: not a file of tensors only ({_short(error)})") from None
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path}: holds no state_dict")
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
            raise WeightsError(f"{path}: entry {name!r} is not a tensor")
        if tensor.numel() > MAX_BYTES // 8:  # strides let a small file describe a huge tensor
            raise WeightsError(f"{path}: tensor {name!r} is too large")
        arrays[name] = (tensor.float() if tensor.is_floating_point() else tensor).detach().numpy()
    return arrays


def _short(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:100]


_READERS = {".safetensors": lambda path: _read_safetensors(path)[0], ".npz": _read_npz,
            ".pt": _read_torch, ".pth": _read_torch, ".th": _read_torch}

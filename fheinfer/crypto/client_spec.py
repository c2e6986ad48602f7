"""`client.json`: all that a client needs of a plan. Public, without weights; docs/reference/formats.md has it in prose.

A client makes keys, encrypts and decrypts by this file alone. It believes this file, and not what a server returns:
scale and number of outputs, and how large they can get, are taken from here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from fheinfer.crypto.backends import BACKENDS, Backend, backend
from fheinfer.crypto.client_layers import SUFFIX, ClientLayers, companion
from fheinfer.crypto.client_tensors import (
    SLACK,
    ClientPart,
    Finite,
    Frozen,
    Hash,
    InputSpec,
    Name,
    OutputSpec,
    Positive,
    Size,
    checked_input,
)
from fheinfer.crypto.key_policy import KeyPolicy, Rotations
from fheinfer.crypto.params import ParameterSet, key_identity
from fheinfer.errors import CorruptArtifactError, InputError, MismatchError, PlanError, RangeError
from fheinfer.storage import atomic_write, read_small, write_json

FORMAT: Literal[2] = 2
FILE_NAME = "client.json"
MAX_BYTES = 4 << 20
"""Bytes of a client.json: the rotations of a large plan and a thousand class names are far below."""
MAX_OUTPUTS = 64
ALLOW_INSECURE = "FHEINFER_ALLOW_INSECURE"
"""Environment variable that lets parameters below 128 bits be read from a file: for tests."""

SET_NAME = r"^[A-Za-z0-9_.-]{1,64}$"


def _bounded(params: ParameterSet) -> ParameterSet:
    """Keeps numbers from a file within what sizes can be computed from; the context checks them for what they mean."""
    sizes = (params.first_bits, params.scale_bits, params.special_bits)
    levels = (params.cts_budget, params.stc_budget, params.levels, params.bootstrap_levels)
    if not 4 <= params.log_n <= 17 or not 1 <= params.slots <= 1 << (params.log_n - 1):
        raise ValueError("a ring of 2^4 to 2^17 with at most N/2 slots")
    if params.slots & (params.slots - 1):
        raise ValueError("the number of slots is a power of two")
    if not all(10 <= bits <= 60 for bits in sizes) or not 1 <= params.digits <= 64:
        raise ValueError("primes have 10 to 60 bits, and there are 1 to 64 digits")
    if not all(0 <= count <= 200 for count in levels):
        raise ValueError("levels and budgets are 0 to 200")
    if not re.fullmatch(SET_NAME, params.name):
        raise ValueError("the name of a set has 1 to 64 letters, digits, dots, - and _")
    return params


ParameterLiteral = Annotated[ParameterSet, AfterValidator(_bounded)]
"""A parameter set as files carry it: every field, none unknown, within bounds."""


class KeyNeeds(Frozen):
    """The keys that a plan needs under one policy, and what a run with them is predicted to take.

    rotations    (rotation, limbs of its key), those of bootstrapping included; a rotation may need several heights
    key_bytes    of all keys in the server's folder, the public key among them
    peak_memory  bytes of a server that holds them and the plan
    seconds      of an evaluation with two threads of the reference machine (docs/explanation/performance.md)
    """

    rotations: Rotations
    key_bytes: Size
    peak_memory: Size
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]

    @field_validator("rotations", mode="before")
    @classmethod
    def _tuples(cls, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        return tuple(tuple(item) if isinstance(item, list) else item for item in value)


class ClientSpec(Frozen):
    """What a client knows of a plan.

    plan          SHA-256 (hex) of the plan file's bytes: which plan this is
    mean, std     an image is normalised as (pixel / 255 - mean) / std per channel, a vector as (x - mean) / std
    before        the first layers, which the client computes in clear, of a split model
    input         the tensor that is encrypted
    outputs       those that are decrypted, one or several, in the order of a result's ciphertexts
    output_bytes  size of a result, all outputs together
    bootstraps    whether the plan bootstraps, and so needs the keys for it
    """

    format: Literal[2] = FORMAT
    model: Name
    plan: Hash
    params: ParameterLiteral
    backend: Annotated[str, Field(max_length=64)]
    mean: tuple[Finite, ...]
    std: tuple[Positive, ...]
    before: ClientPart | None = None
    input: InputSpec
    outputs: Annotated[tuple[OutputSpec, ...], Field(min_length=1, max_length=MAX_OUTPUTS)]
    output_bytes: Size
    bootstraps: bool
    keys: dict[KeyPolicy, KeyNeeds]
    _layers: ClientLayers | None = PrivateAttr(default=None)

    @field_validator("mean", "std", "outputs", mode="before")
    @classmethod
    def _tuples(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("backend")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in BACKENDS:
            raise ValueError(f"no such backend in this version, which has {', '.join(BACKENDS)}")
        return name

    @model_validator(mode="after")
    def _consistent(self) -> ClientSpec:
        channels, level = self.input_shape[0], self.input.level
        if {len(self.mean), len(self.std)} != {channels}:
            raise ValueError(f"mean and std need {channels} numbers each")
        if level > self.params.top_level or not self.params.encrypts_at(level):
            raise ValueError(f"nobody can encrypt at level {level} of this chain")
        for tensor in (self.input, *self.outputs):
            if tensor.packing.period > self.params.slots:
                raise ValueError(f"a tensor of shape {tensor.shape} does not fit {self.params.slots} slots")
        if len({output.name for output in self.outputs}) != len(self.outputs):
            raise ValueError("two outputs of one name")
        for needs in self.keys.values():
            _check_rotations(needs.rotations, self.params)
        if not self.keys:
            raise ValueError("no key policy")
        return self

    @property
    def identity(self) -> bytes:
        """What keys and ciphertexts have to be of to serve this plan (`params.key_identity`)."""
        return key_identity(self.params, self.backend)

    @property
    def key_backend(self) -> Backend:
        """The backend that the keys are for."""
        return backend(self.backend)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of what `Client.encrypt` takes: (C, H, W) of an image, (F,) of a vector."""
        return self.before.shape if self.before else self.input.shape

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the images that the network takes.

        Raises:
            InputError: it takes something else.
        """
        if len(self.input_shape) != 3:
            what = f"{self.input_shape[0]} numbers" if len(self.input_shape) == 1 else f"a tensor {self.input_shape}"
            raise InputError(f"{self.model} takes {what}, not an image; give arrays, by `--input FILE.npy`")
        return self.input_shape[1], self.input_shape[2]

    @property
    def result_ciphertexts(self) -> int:
        """How many ciphertexts a result holds."""
        return sum(output.ciphertexts for output in self.outputs)

    def pack(self, x: NDArray[np.floating]) -> list[NDArray[np.float64]]:
        """A normalised input as slot values in [-1, 1], one vector per ciphertext.

        Raises:
            InputError: an input of another shape, or with values that are not finite.
            RangeError: values larger than any input the network was calibrated on.
        """
        return self.input.pack(self.encrypted(checked_input(x, *self._accepted, self.model, self._advice()))[0])

    @property
    def _accepted(self) -> tuple[tuple[int, ...], float]:
        """Shape and bound of a normalised input."""
        return (self.before.shape, self.before.bound) if self.before else (self.input.shape, self.input.scale)

    @property
    def layers(self) -> ClientLayers | None:
        """The first layers of a split model; None where everything is encrypted.

        Raises:
            InputError: their file was not read: this client.json came without it.
        """
        if self.before is not None and self._layers is None:
            raise InputError(
                f"the client computes the layers of {self.model} up to {self.before.until}, which are in "
                f"{FILE_NAME.replace('.json', SUFFIX)} beside {FILE_NAME}; put it there"
            )
        return self._layers

    def with_layers(self, layers: ClientLayers | None) -> ClientSpec:
        """The same with the layers that the client computes.

        Raises:
            MismatchError: they are not those that `before` names.
        """
        if layers is not None and (self.before is None or layers.sha256 != self.before.sha256):
            raise MismatchError(
                f"the layers of the client are not those of {self.model} ({self.plan[:8]}); get its client.json and "
                f"the {SUFFIX} file beside it again"
            )
        copy = self.model_copy()
        copy._layers = layers
        return copy

    def encrypted(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """What is encrypted of a batch or a single normalised input: of a split model the output of its first layers.

        Args:
            x: (B, *input_shape), or one input without the batch dimension.

        Returns:
            (B, *input.shape).

        Raises:
            InputError: see `layers`.
            RangeError: the first layers give values larger than any seen in calibration.
        """
        layers = self.layers
        batch = x if x.ndim > len(self.input_shape) else x[None]
        if layers is None:
            return batch
        found = layers(batch)
        if found.shape[1:] != self.input.shape:
            raise CorruptArtifactError(f"the layers of the client give {found.shape[1:]}, not {self.input.shape}")
        largest = float(np.abs(found).max())
        if not largest <= self.input.scale * (1 + SLACK):
            raise RangeError(
                f"the layers of the client reach {largest:.4g} and {self.model} was calibrated up to "
                f"{self.input.scale:.4g} there; calibrate on data that has such inputs and compile again"
            )
        return found

    def _advice(self) -> str:
        identity = set(self.mean) == {0.0} and set(self.std) == {1.0}
        if identity:
            first = "bring inputs to the range that the network was trained on"
        elif len(self.input_shape) == 3:
            first = "normalise it first: (pixel / 255 - mean) / std per channel (fheinfer.normalise)"
        else:
            first = "normalise it first: (x - mean) / std per feature, with mean and std of client.json"
        return f"{first}; if such inputs are meant, calibrate on data that has them and compile again"

    def unpack(self, slots: Sequence[NDArray[np.floating]]) -> dict[str, NDArray[np.float64]]:
        """Outputs by name, as the plan computes them, from the decrypted slots of every ciphertext of a result.

        Raises:
            RangeError: see `OutputSpec.unpack`.
        """
        found, at = {}, 0
        for output in self.outputs:
            found[output.name] = output.unpack(slots[at : at + output.ciphertexts], self.model)
            at += output.ciphertexts
        return found

    def finish(self, outputs: Mapping[str, NDArray[np.float64]]) -> Any:
        """What the network returns: an array, or arrays by name where it has several outputs; of each, the last softmax
        or sigmoid is computed now (`OutputSpec.finish`)."""
        finished = {output.name: output.finish(outputs[output.name]) for output in self.outputs}
        return next(iter(finished.values())) if len(finished) == 1 else finished

    def finish_many(self, outputs: Sequence[Mapping[str, NDArray[np.float64]]]) -> Any:
        """As `finish`, of several inputs: each array with a first axis for them."""
        finished = [self.finish(one) for one in outputs]
        if len(self.outputs) == 1:
            return np.stack(finished)
        return {output.name: np.stack([one[output.name] for one in finished]) for output in self.outputs}

    def to_json(self) -> dict[str, Any]:
        """As `save` writes it."""
        return self.model_dump(mode="json")

    def save(self, path: Path | str) -> None:
        """Writes `client.json`, and of a split model the layers of the client beside it, under the same name.

        Raises:
            InputError: see `layers`.
            StorageError: see `storage.atomic_write`.
        """
        path = Path(path)
        if layers := self.layers:
            atomic_write(companion(path), [layers.data])
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: Path | str) -> ClientSpec:
        """Reads and validates a `client.json`, or that in the folder `path`, and of a split model the layers beside it.

        Raises:
            InputError: there is none, or not the file with the layers of the client.
            CorruptArtifactError: too large, not JSON, or a field that is missing, unknown or impossible.
            MismatchError: of another version of the format.
            PlanError: parameters below 128 bits.
        """
        path = Path(path)
        path = path / FILE_NAME if os.path.isdir(path) else path  # noqa: PTH112 - takes any string for a name
        try:
            raw = read_small(path, MAX_BYTES, "a client.json")
        except FileNotFoundError:
            raise InputError(f"{path}: no such client.json; `fheinfer compile` writes it beside the plan") from None
        spec = cls.from_bytes(raw, str(path))
        return spec if spec.before is None else spec.with_layers(ClientLayers.load(companion(path)))

    @classmethod
    def from_bytes(cls, raw: bytes, name: str = FILE_NAME) -> ClientSpec:
        """The spec in these bytes; `name` is how errors call them. Raises what `load` does."""
        try:
            version = _Version.model_validate_json(raw).format
            if version != FORMAT:
                raise MismatchError(
                    f"{name}: version {version} of the format and this program reads {FORMAT}; "
                    "use the fheinfer that wrote it, or compile the model again"
                )
            spec = cls.model_validate_json(raw)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))[:80] or "file"
            raise CorruptArtifactError(
                f"{name}: damaged ({where}: {first['msg'][:100]}); get it again, or compile the model again"
            ) from None
        require_secure(spec.params, name)
        return spec


def _check_rotations(rotations: Rotations, params: ParameterSet) -> None:
    most = params.limbs(params.top_level)
    for rotation, limbs in rotations:
        if not 0 < rotation < 1 << (params.log_n - 1) or not 1 <= limbs <= most:
            raise ValueError(f"impossible rotation key ({rotation}, {limbs})")
    if list(rotations) != sorted(set(rotations)):
        raise ValueError("rotation keys are not sorted, or listed twice")


class _Version(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    format: int


def require_secure(params: ParameterSet, name: str) -> None:
    """Refuses parameters that a file marks as insecure; all others are checked when their context is made.

    Raises:
        PlanError: they are.
    """
    if params.insecure and not os.environ.get(ALLOW_INSECURE):
        raise PlanError(f"{name}: parameters {params.name} have less than 128 bits and are for tests; refused")

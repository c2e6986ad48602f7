"""`manifest.json`: what a folder of public and evaluation keys holds, and which plans they serve."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from fheinfer.crypto.artifact import Kind
from fheinfer.crypto.backends import backend
from fheinfer.crypto.client_spec import ClientSpec, ParameterLiteral, require_secure
from fheinfer.crypto.client_tensors import Hash
from fheinfer.crypto.key_policy import KeyPolicy, Rotations, Selection, select
from fheinfer.crypto.params import key_identity
from fheinfer.errors import KeyStoreError, MismatchError
from fheinfer.storage import parse_json, read_small, shown

FORMAT: Literal[4] = 4
FILE_NAME = "manifest.json"
MAX_BYTES = 1 << 20
"""Bytes of a manifest."""
MAX_PLANS = 1000

PUBLIC, RELINEARISATION, CONJUGATION = "public.key", "relinearisation.key", "conjugation.key"
TO_SPARSE, TO_DENSE = "to_sparse.key", "to_dense.key"
KINDS = {
    PUBLIC: Kind.PUBLIC_KEY,
    RELINEARISATION: Kind.RELINEARISATION_KEY,
    CONJUGATION: Kind.CONJUGATION_KEY,
    TO_SPARSE: Kind.ENCAPSULATION_TO_SPARSE,
    TO_DENSE: Kind.ENCAPSULATION_TO_DENSE,
}
"""Kinds of the keys that there is one of."""

_ADVICE = "copy the folder again, or make new keys with `fheinfer keygen --force`"
_ROTATION_NAME = re.compile(r"rotation_(0|[1-9][0-9]{0,5})_([1-9][0-9]{0,2})\.key")
_FILE_NAME = r"^([a-z_]{1,32}|rotation_[0-9]{1,6}_[0-9]{1,3})\.key$"


def rotation_file(rotation: int, limbs: int) -> str:
    """File name of a rotation key; rotations are in [0, N/2)."""
    return f"rotation_{rotation}_{limbs}.key"


def evaluation_keys(spec: ClientSpec) -> list[str]:
    """File names of the keys that a plan needs beside rotation keys, in the order in which they are made."""
    names = [RELINEARISATION]
    if spec.key_backend.needs_conjugation(spec.params, bootstraps=spec.bootstraps):
        names.append(CONJUGATION)
    return names + ([TO_SPARSE, TO_DENSE] if spec.bootstraps else [])


def describe(name: str) -> tuple[Kind, dict[str, int]] | None:
    """Kind and metadata of the key in a file of that name; None where no key is called so."""
    if name in KINDS:
        return KINDS[name], {}
    match = _ROTATION_NAME.fullmatch(name)
    return (Kind.ROTATION_KEY, {"rotation": int(match[1]), "limbs": int(match[2])}) if match else None


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class FileEntry(_Frozen):
    """A key file: its size in bytes, and the SHA-256 in its header, which covers the rest of it."""

    bytes: Annotated[int, Field(gt=0, lt=1 << 48)]
    sha256: Hash


class PlanEntry(_Frozen):
    """A plan that the keys were made for: its identity, and the name of its model."""

    plan: Hash
    model: Annotated[str, Field(max_length=200)]


class Manifest(_Frozen):
    """What a folder of public and evaluation keys holds.

    params     the parameter set itself; its name is a label
    backend    that the keys are for
    policy     by which the rotations were chosen
    plans      that the keys were made for; they serve any plan whose keys are all there
    rotations  (rotation, limbs of its key), sorted; each has its file
    """

    format: Literal[4] = FORMAT
    params: ParameterLiteral
    backend: Annotated[str, Field(max_length=64)]
    key_id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    policy: KeyPolicy
    plans: Annotated[tuple[PlanEntry, ...], Field(min_length=1, max_length=MAX_PLANS)]
    created: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00$")]
    rotations: Rotations
    files: dict[Annotated[str, Field(pattern=_FILE_NAME)], FileEntry]

    @field_validator("plans", "rotations", mode="before")
    @classmethod
    def _tuples(cls, value: Any) -> Any:
        return tuple(tuple(v) if isinstance(v, list) else v for v in value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        unknown = [name for name in self.files if describe(name) is None]
        if unknown:
            raise ValueError(f"no key is called {unknown[0]}")
        if not {PUBLIC, RELINEARISATION} <= self.files.keys():
            raise ValueError("there are always a public and a relinearisation key")
        if (TO_SPARSE in self.files) != (TO_DENSE in self.files):
            raise ValueError("one of the two keys of bootstrapping")
        if list(self.rotations) != sorted(rotations_of(self.files)):
            raise ValueError("rotations and files do not agree")
        top, cyclic = self.params.limbs(self.params.top_level) + 1, 1 << (self.params.log_n - 1)
        if any(not 0 <= rotation < cyclic or limbs > top for rotation, limbs in self.rotations):
            raise ValueError("a rotation that the parameters do not have")
        return self

    @property
    def set_name(self) -> str:
        """The name of the parameter set: a label."""
        return self.params.name

    @property
    def identity(self) -> bytes:
        """Of parameter set and backend, as every key and ciphertext carries it."""
        return key_identity(self.params, self.backend)

    @property
    def bootstraps(self) -> bool:
        """Whether the keys for bootstrapping are there."""
        return TO_DENSE in self.files

    @property
    def total_bytes(self) -> int:
        """Bytes of all key files."""
        return sum(entry.bytes for entry in self.files.values())

    def select(self, rotations: Iterable[tuple[int, int]]) -> Selection:
        """The rotation keys to use for what a plan needs, and those that are missing (`key_policy.select`)."""
        two_heights = backend(self.backend).key_heights == 2
        return select(self.rotations, rotations, self.params.levels + 1 if two_heights else None)

    def keys_for(self, rotations: Iterable[tuple[int, int]], others: Iterable[str]) -> list[str]:
        """Names of the files that serve these needs.

        Args:
            rotations: (rotation, limbs) that a plan needs.
            others: file names of other keys that it needs.

        Raises:
            MismatchError: some are not there; it says how many and how to make them.
        """
        chosen, wanted = self.select(rotations), list(others)
        missing = len(chosen.missing) + len([name for name in wanted if name not in self.files])
        if missing:
            known = ", ".join(sorted({entry.model for entry in self.plans}))
            raise MismatchError(
                f"these keys were made for {shown(known)} and lack {missing} that this plan needs; make them under the "
                "same secret with `fheinfer keygen --add` and the plan's client.json"
            )
        return wanted + [rotation_file(*key) for key in chosen.use]

    def to_json(self) -> dict[str, Any]:
        """As it is written."""
        return self.model_dump(mode="json")

    @classmethod
    def load(cls, path: Path) -> Manifest:
        """Reads and validates a manifest.

        Raises:
            KeyStoreError: there is none.
            CorruptArtifactError: over 1 MiB, not JSON, or a field that is missing, unknown or impossible.
            MismatchError: of another version of the format.
            PlanError: parameters below 128 bits.
        """
        try:
            raw = read_small(path, MAX_BYTES, "the manifest of keys")
        except FileNotFoundError:
            raise KeyStoreError(
                f"no keys in {shown(path.parent)}; make them with `fheinfer keygen`, or name their folder"
            ) from None
        return cls.from_bytes(raw, str(path))

    @classmethod
    def from_bytes(cls, raw: bytes, name: str = FILE_NAME) -> Manifest:
        """The manifest in these bytes; `name` is how errors call them. Raises what `load` does."""
        path = Path(name)
        version = parse_json(raw, path, _Version, _ADVICE).format
        if version != FORMAT:
            raise MismatchError(
                f"{shown(name)}: keys in version {version} of the format and this program reads {FORMAT}; "
                "use the fheinfer that made them, or make new ones with `fheinfer keygen --force`"
            )
        manifest = parse_json(raw, path, cls, _ADVICE)
        require_secure(manifest.params, name)
        return manifest


def rotations_of(files: Iterable[str]) -> list[tuple[int, int]]:
    """(rotation, limbs) of the rotation keys among these files."""
    matches = (_ROTATION_NAME.fullmatch(name) for name in files)
    return [(int(match[1]), int(match[2])) for match in matches if match]


class _Version(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    format: int

"""The models of the service: what is in the MODELS folder, as copies that no later change of that folder reaches.

    MODELS/<name>/{plan.safetensors,client.json,client.safetensors}   as `fheinfer compile -o MODELS/<name>` writes it
    MODELS/<name>/about.json                                          optional: {"accuracy": 0.92, "description": "..."}
    DATA/plans/<plan hash>/                                           a copy, whole or absent; jobs run on these

A plan file is hashed here and not parsed: the worker processes do that.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from fheinfer.crypto.client_layers import companion
from fheinfer.crypto.client_spec import FILE_NAME as CLIENT_FILE
from fheinfer.crypto.client_spec import MAX_BYTES, ClientSpec
from fheinfer.errors import FheinferError, InputError, MismatchError, NotFoundError
from fheinfer.service.protocol import MODEL_NAME, ModelInfo
from fheinfer.service.store import DAY, Store
from fheinfer.storage import (
    atomic_write,
    make_folder,
    open_regular,
    read_json,
    read_small,
    remove_leftovers,
    require_disk,
    shown,
    storage_errors,
    sync_folder,
    temporary_sibling,
)

PLAN_FILE, ABOUT_FILE = "plan.safetensors", "about.json"
PLANS = "plans"
KEEP_PLANS = 30 * DAY
"""Seconds that a plan stays usable after its name came to mean another one, or none."""
_CHUNK = 1 << 20


class About(BaseModel):
    """What the owner of a service says of a model."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    accuracy: Annotated[float, Field(ge=0, le=1)] | None = None
    description: Annotated[str, Field(max_length=2000)] = ""


class Catalogue:
    """The models in the folder `models`, with copies of their plans in `data`/plans. `refresh` reads the folder.

    Args:
        keep_plans: seconds that a plan stays usable after its name came to mean another one, or none.
        worker_memory: bytes that clients are told a worker may take.
    """

    def __init__(
        self,
        models: Path,
        data: Path,
        store: Store,
        *,
        keep_plans: float = KEEP_PLANS,
        worker_memory: int | None = None,
    ) -> None:
        self._worker_memory = worker_memory
        self._models, self._plans, self._store, self._keep = models, data / PLANS, store, keep_plans
        self._infos: dict[str, ModelInfo] = {}
        self._specs: dict[str, ClientSpec] = {}

    def refresh(self) -> dict[str, FheinferError]:
        """Takes over what changed in the folder, and returns what is wrong with models that could not be taken.

        Such a model stays what it was. A plan that was replaced stays usable for `keep_plans` seconds.

        Raises:
            InputError: there is no such folder, or it is that of one model.
            StorageError: the disk is full or fails.
        """
        make_folder(self._plans)
        remove_leftovers(self._plans)
        infos, wrong = {}, {}
        for name in self._names():
            try:
                infos[name] = self._take(name)
            except FheinferError as error:
                wrong[name] = error
                if name in self._infos:
                    infos[name] = self._infos[name]
        kept = {row.name: row.plan for row in self._store.plans() if row.until is None and row.name in wrong}
        current = kept | {name: info.plan for name, info in infos.items()}
        self._store.set_plans(current, self._store.now() + self._keep)
        self._infos = infos
        return wrong

    def expire(self) -> None:
        """Removes plans whose time is over and that no job needs."""
        for plan in self._store.drop_old_plans():
            self._specs.pop(plan, None)
            shutil.rmtree(self._plans / plan, ignore_errors=True)

    def models(self) -> list[ModelInfo]:
        """All models, by name."""
        return [info for _, info in sorted(self._infos.items())]

    def model(self, name: str) -> ModelInfo:
        """The model of that name.

        Raises:
            NotFoundError: there is none.
        """
        if name not in self._infos:
            raise NotFoundError("no such model; GET /v1/models lists those of this service")
        return self._infos[name]

    def spec(self, plan: str) -> ClientSpec:
        """What a client knows of the plan with that hash, which a name means now or meant not long ago.

        Raises:
            NotFoundError: there is none.
        """
        if plan not in self._specs:
            self._specs[plan] = _spec(self.folder(plan))
        return self._specs[plan]

    def folder(self, plan: str) -> Path:
        """The folder of a plan. Raises what `spec` does."""
        if plan not in {row.plan for row in self._store.plans()} or not (self._plans / plan).is_dir():
            raise NotFoundError("no such plan, or not any more; ask for the model again")
        return self._plans / plan

    def file(self, plan: str, name: str) -> Path:
        """`client.json` or `client.safetensors` of a plan.

        Raises:
            NotFoundError: no such plan, or it has no such file.
        """
        path = self.folder(plan) / (name if name in (CLIENT_FILE, companion(Path(CLIENT_FILE)).name) else "")
        if not path.is_file():
            raise NotFoundError("this plan has no such file")
        return path

    def _names(self) -> list[str]:
        """Folders that should each be a model."""
        try:
            alone = (self._models / CLIENT_FILE).is_file()
            found = sorted(path.name for path in self._models.iterdir() if os.path.isdir(path))  # noqa: PTH112 - Path's raises
        except OSError as error:
            raise InputError(
                f"{shown(self._models)}: {error.strerror}; name the folder that has a folder for each model, as "
                "`fheinfer compile MODEL -o FOLDER/NAME` writes it"
            ) from None
        if alone:
            raise InputError(f"{shown(self._models)} is the folder of one model; name the folder that it is in")
        return [name for name in found if not name.startswith(".")]

    def _take(self, name: str) -> ModelInfo:
        folder = self._models / name
        if not re.fullmatch(MODEL_NAME, name):
            raise InputError(f"{shown(folder)}: no name of a model; rename it to letters, digits, dots, - and _ (64)")
        spec = _spec(folder)
        if not (self._plans / spec.plan).is_dir():
            self._copy(folder, spec)
        try:
            about = read_json(folder / ABOUT_FILE, 1 << 16, About, "correct it")
        except FileNotFoundError:
            about = About()
        return ModelInfo(
            name=name,
            plan=spec.plan,
            client=hashlib.sha256(read_small(self._plans / spec.plan / CLIENT_FILE, MAX_BYTES)).hexdigest(),
            model=spec.model,
            set=spec.params.name,
            input_shape=list(spec.input_shape),
            input_bytes=spec.input.bytes,
            result_bytes=spec.output_bytes,
            seconds={policy: needs.seconds for policy, needs in spec.keys.items()},
            key_bytes={policy: needs.key_bytes for policy, needs in spec.keys.items()},
            memory={policy: needs.peak_memory for policy, needs in spec.keys.items()},
            accuracy=about.accuracy,
            description=about.description,
            split=spec.before is not None,
            worker_memory=self._worker_memory,
        )

    def _copy(self, folder: Path, spec: ClientSpec) -> None:
        """A copy, not a link: whoever writes into a file of MODELS in place would change the plan under a worker."""
        files = {PLAN_FILE: spec.plan}
        if spec.before is not None:
            files[companion(Path(CLIENT_FILE)).name] = spec.before.sha256
        temp = temporary_sibling(self._plans / spec.plan)
        with storage_errors(folder):
            require_disk(self._plans, sum((folder / name).stat().st_size for name in files if (folder / name).exists()))
            temp.mkdir(mode=0o755)
        try:
            for name, sha256 in files.items():
                _copy(folder / name, temp / name, sha256)
            atomic_write(temp / CLIENT_FILE, [read_small(folder / CLIENT_FILE, MAX_BYTES)])
            if _spec(temp).plan != spec.plan:
                raise MismatchError(f"{shown(folder)} is being written; it is read again later")
            with storage_errors(self._plans / spec.plan):
                temp.rename(self._plans / spec.plan)
            sync_folder(self._plans)
        except BaseException:
            shutil.rmtree(temp, ignore_errors=True)
            raise


def _spec(folder: Path) -> ClientSpec:
    """As `ClientSpec.load`, without the layers of a split model, which only the client computes."""
    try:
        return ClientSpec.from_bytes(read_small(folder / CLIENT_FILE, MAX_BYTES, "a client.json"), str(folder))
    except FileNotFoundError:
        raise InputError(f"{shown(folder)}: no {CLIENT_FILE}; `fheinfer compile` writes it beside the plan") from None


def _copy(source: Path, target: Path, sha256: str) -> None:
    digest = hashlib.sha256()
    try:
        fd, _ = open_regular(source, "a file of a model")
    except FileNotFoundError:
        raise InputError(f"{shown(source)}: no such file; `fheinfer compile` writes it beside client.json") from None

    def chunks() -> Iterator[bytes]:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            yield chunk

    with os.fdopen(fd, "rb") as file:
        atomic_write(target, chunks())
    if digest.hexdigest() != sha256:
        raise MismatchError(
            f"{shown(source)} is not the file that the {CLIENT_FILE} beside it names; compile the model again into "
            "this folder"
        )

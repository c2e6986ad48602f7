"""Plans that were compiled here before, in the user's cache folder: the same model and settings are compiled once.

The name of an entry is a hash of the bytes of the model file and of everything else that decides the plan. It names a
folder on this machine and nothing else: which plan it is, is the plan's own identity.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from fheinfer import _core
from fheinfer.compiler.activations import RANGE_MARGIN
from fheinfer.compiler.plan import FILE_NAME, FORMAT
from fheinfer.compiler.plan import MAX_BYTES as MAX_PLAN_BYTES
from fheinfer.compiler.wanted import ANYTHING, Wanted
from fheinfer.crypto.client_spec import ClientSpec
from fheinfer.crypto.params import ParameterSet
from fheinfer.errors import FheinferError, StorageError
from fheinfer.model.model import MAX_BYTES
from fheinfer.storage import cache_folder, read_small, storage_errors

KEPT = 64
"""Plans that are kept, the most recently used ones."""


_PARTS = ("compiler", "approx", "model", "crypto")
"""Folders of the package whose files decide what a plan is."""
_temporary: dict[str, Path] = {}  # plans of this process that could not be kept, by name


def compiled(
    model: Path,
    params: ParameterSet | Literal["auto"],
    *,
    activation: str | None = None,
    bits: float | None = None,
    backend: str | None = None,
    margin: float | None = None,
    wanted: Wanted = ANYTHING,
    client_until: str | None = None,
) -> Path:
    """A folder with the plan and the client.json of a model file under these settings; compiled now if need be.

    One that was damaged meanwhile is compiled again and replaced.

    Where the cache folder cannot be written, the plan goes into a temporary folder that is removed when this process
    ends. Arguments and errors are those of `fheinfer.compile`, and of reading the model.

    Args:
        params: the set, or "auto".
        wanted: what "auto" has to keep to.
    """
    settings = {
        "activation": activation,
        "bits": bits,
        "backend": backend,
        "margin": RANGE_MARGIN if margin is None else margin,
        "client_until": client_until,
    }
    name = _name(model, params, {**settings, "wanted": asdict(wanted)})
    folder = cache_folder() / "plans" / name
    for there in (folder, _temporary.get(name)):
        if there is not None and _is_whole(there):
            with suppress(OSError):
                os.utime(there)
            return there
    from fheinfer.compiler.pipeline import compile
    from fheinfer.model.model import load

    plan = compile(load(model), params, wanted=wanted, **settings)  # type: ignore[arg-type]
    try:
        plan.save(folder)
    except StorageError:
        folder = _temporary_folder(name)
        plan.save(folder)
    else:
        _forget_oldest(folder.parent)
    return folder


def _is_whole(folder: Path) -> bool:
    """Whether both files are there and as they were written: client.json has the SHA-256 of the plan."""
    try:
        expected = ClientSpec.load(folder).plan
        return hashlib.sha256(read_small(folder / FILE_NAME, MAX_PLAN_BYTES)).hexdigest() == expected
    except (FheinferError, OSError):
        return False


def _temporary_folder(name: str) -> Path:
    with storage_errors(Path(tempfile.gettempdir())):
        folder = _temporary[name] = Path(tempfile.mkdtemp(prefix="fheinfer-plan-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _name(model: Path, params: ParameterSet | Literal["auto"], settings: Mapping[str, Any]) -> str:
    chosen = settings["activation"] or ""
    digest = hashlib.sha256()
    for part in (model, *([Path(chosen)] if chosen.endswith(".json") else [])):
        with suppress(FheinferError, OSError):  # what cannot be read is refused when it is compiled
            digest.update(hashlib.sha256(read_small(part, MAX_BYTES)).digest())
    wanted = params if isinstance(params, str) else asdict(params)
    digest.update(json.dumps([FORMAT, _sources(), _core_hash(), wanted, settings], sort_keys=True).encode())
    return digest.hexdigest()[:32]


def _sources() -> list[tuple[str, int, int]]:
    """Which compiler this is: size and time of the package's files, so that an edited one compiles again."""
    package = Path(__file__).resolve().parents[1]
    found = []
    files = [*package.glob("*.py"), *(f for part in _PARTS for f in (package / part).rglob("*.[pj][ys]*"))]
    for file in files:
        status = file.stat()
        found.append((str(file.relative_to(package)), status.st_size, status.st_mtime_ns))
    return sorted(found)


def _core_hash() -> str:
    """Which C++ core the compiler asks for sizes and layouts: the hash of its bytes, as a build may keep size and time.

    Empty where it cannot be read.
    """
    try:
        return hashlib.sha256(Path(_core.__file__).read_bytes()).hexdigest()
    except OSError:
        return ""


def _forget_oldest(root: Path) -> None:
    with suppress(OSError):
        folders = sorted(root.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        for folder in folders[KEPT:]:
            shutil.rmtree(folder, ignore_errors=True)

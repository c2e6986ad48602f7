"""A network from whatever a user has: told by its content, never by its suffix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fheinfer.data.files import printable
from fheinfer.errors import InputError, UsageError
from fheinfer.frontends.importing import Imported, import_model
from fheinfer.model.model import is_model_file
from fheinfer.storage import open_regular

_HEAD = 64


@dataclass(frozen=True)
class Wishes:
    """What a user says of a network beside its file.

    network  of the zoo, whose weights a checkpoint holds
    shape    of one input without the batch, such as (3, 32, 32): of classes, and of ONNX files that leave it open
    state    checkpoint for a class
    batch    whether the first axis of the input of an ONNX file is a batch
    mean, std, classes, name, ranges, entry  see `importing.import_model` and `torch_export.import_torch`
    """

    network: str | None = None
    shape: tuple[int, ...] | None = None
    state: Path | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    classes: Sequence[str] | None = None
    name: str | None = None
    ranges: Mapping[str, float] | None = None
    entry: str | None = None
    batch: bool | None = None


def import_any(source: str, wishes: Wishes) -> Imported:
    """The network in a file, or of a class: `package.module:Class`, which runs that module.

    Files are models of ours, ONNX, what `torch.export.save` wrote, and checkpoints of networks of the zoo in any form.

    Raises:
        UsageError: a wish that changes nothing for such a source, or one that it lacks.
        InputError, WeightsError, GraphError: see the readers; a network that is not supported says why.
    """
    path = Path(source)
    if _is_class(source) and not path.exists():
        return _of_class(source, wishes)
    form = _form(path)
    if form == "onnx":
        _refuse(wishes, "an ONNX file holds its network and weights", "network", "state", "entry")
        from fheinfer.frontends.onnx import import_onnx

        return import_onnx(
            path,
            mean=wishes.mean,
            std=wishes.std,
            classes=wishes.classes,
            name=wishes.name,
            shape=wishes.shape,
            batch=wishes.batch,
        )
    _refuse(wishes, "it is of ONNX files", "batch")
    if form == "program":
        _refuse(wishes, "an exported program holds its network and weights", "network", "state", "entry", "shape")
        from fheinfer.frontends.torch_export.sources import import_program

        return import_program(path, mean=wishes.mean, std=wishes.std, classes=wishes.classes, name=wishes.name)
    _refuse(wishes, "a checkpoint is of a network of the zoo; name its class for others", "state", "shape", "name")
    return import_model(
        path,
        wishes.network,
        mean=wishes.mean,
        std=wishes.std,
        classes=wishes.classes,
        ranges=wishes.ranges,
        entry=wishes.entry,
    )


def _of_class(source: str, wishes: Wishes) -> Imported:
    _refuse(wishes, "a class says its network itself; --weights names its checkpoint", "network", "entry")
    _refuse(wishes, "it is of ONNX files", "batch")
    if wishes.shape is None:
        raise UsageError(f"{printable(source)}: say what one input is like by --example-shape, such as 1,3,32,32")
    from fheinfer.frontends.torch_export.sources import import_class

    return import_class(
        source,
        wishes.shape,
        state=wishes.state,
        mean=wishes.mean,
        std=wishes.std,
        classes=wishes.classes,
        name=wishes.name,
    )


def _is_class(source: str) -> bool:
    """Whether that is "package.module:Class"."""
    module, mark, name = source.partition(":")
    return bool(mark) and all(part.isidentifier() for part in (*module.split("."), *name.split(".")))


def _form(path: Path) -> str:
    """ "onnx", "program", "model", or "checkpoint" for everything else.

    Raises:
        InputError: no such file.
    """
    try:
        fd, _ = open_regular(path)
    except FileNotFoundError:
        raise InputError(
            f"{printable(path)}: no such file; name a model, an ONNX file, a .pt2 or a checkpoint, or write "
            "package.module:Class"
        ) from None
    with open(fd, "rb") as file:  # noqa: PTH123 - a descriptor
        head = file.read(_HEAD)
    if head.startswith(b"PK"):
        from fheinfer.frontends.torch_export.sources import is_program_file

        return "program" if is_program_file(path) else "checkpoint"
    if _is_onnx(head):
        return "onnx"
    return "model" if is_model_file(path) else "checkpoint"


def _is_onnx(head: bytes) -> bool:
    """Whether a file begins as a ModelProto does: field 1, ir_version, a small number; then another field of it."""
    return len(head) > 3 and head[0] == 0x08 and 1 <= head[1] < 64 and head[2] in _ONNX_TAGS


_ONNX_TAGS = frozenset(number << 3 | kind for number, kind in ((2, 2), (3, 2), (4, 2), (5, 0), (6, 2), (7, 2), (8, 2)))
"""Tags of producer, domain, version, documentation, graph and opsets of an ONNX model."""


def _refuse(wishes: Wishes, reason: str, *names: str) -> None:
    options = {"state": "weights", "shape": "example-shape", "batch": "no-batch"}
    for name in names:
        if getattr(wishes, name) is not None:
            raise UsageError(f"--{options.get(name, name)} changes nothing here: {reason}; leave it out")

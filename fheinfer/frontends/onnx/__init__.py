"""Networks from ONNX files, of opset 9 to the newest that the installed onnx package knows.

Nothing is guessed in silence: what was recognised or assumed is in the notes of `import_onnx`, and in the provenance of
the model. An operation that is not supported is named, with its node and what to use instead.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fheinfer.data.files import printable
from fheinfer.errors import GraphError, WeightsError
from fheinfer.frontends.importing import Imported, model_of
from fheinfer.model.model import Model
from fheinfer.optional import needs

if TYPE_CHECKING:
    from onnx import ModelProto

    from fheinfer.frontends.onnx.importer import Translated


def from_onnx(
    source: str | os.PathLike[str] | bytes | ModelProto,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    classes: Sequence[str] | None = None,
    name: str | None = None,
    shape: Sequence[int] | None = None,
    batch: bool | None = None,
    quiet: bool = False,
) -> Model:
    """The network of an ONNX file as a model that can be calibrated and compiled.

    Args:
        source: path of the file, its bytes, or a model that the onnx package has read.
        mean: of an image, the input is (pixel / 255 - mean) / std per channel; 0 and 1 where nothing is given, so
            that arrays reach the network as they are.
        std: see mean.
        classes: names of the outputs; numbers where none are given.
        name: of the network; that of the file, or of the graph in it, where none is given.
        shape: of one input without the batch, such as (3, 32, 32), where the file leaves sizes open.
        batch: whether the first axis of the input is a batch; where nothing is said it is, if there is another one.
        quiet: whether nothing is printed; otherwise what was recognised or assumed goes to standard error.

    Raises:
        WeightsError: missing, truncated, too large, NaN weights, or external data that is missing or outside the
            folder of the file.
        GraphError: a graph that is not legal, or an operation that is not supported, by its name in the file; or
            outputs that differ from those of ONNX's own reference, which are compared where the network is small.
        InputError: neither a path nor bytes nor a model.
        UsageError: mean without std, or the onnx package is not installed.
    """
    imported = import_onnx(source, mean=mean, std=std, classes=classes, name=name, shape=shape, batch=batch)
    return imported.told(quiet)


def import_onnx(
    source: str | os.PathLike[str] | bytes | ModelProto,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    classes: Sequence[str] | None = None,
    name: str | None = None,
    shape: Sequence[int] | None = None,
    batch: bool | None = None,
) -> Imported:
    """`from_onnx` with notes: what was recognised or assumed, a line each."""
    given = Path(source) if isinstance(source, str | os.PathLike) else source
    where = f"{printable(given)}: " if isinstance(given, Path) else "ONNX model: "
    with needs("onnx", "reading an ONNX file"):
        from fheinfer.frontends.onnx.checking import check
        from fheinfer.frontends.onnx.files import read_model
        from fheinfer.frontends.onnx.importer import translate
    try:
        proto = read_model(given)
        title = name or (given.stem if isinstance(given, Path) else proto.graph.name) or "network"
        translated = translate(proto, printable(title, 100), shape=shape, batch=batch)
        compared = check(proto, translated)
        return _imported(translated, mean, std, classes, _origin(given, proto) | {"onnx": compared})
    except (WeightsError, GraphError) as error:
        if str(error).startswith(where):
            raise
        raise type(error)(f"{where}{error}") from None


def _imported(
    translated: Translated,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    classes: Sequence[str] | None,
    provenance: dict[str, str],
) -> Imported:
    noted = {"notes": "; ".join(translated.notes)} if translated.notes else {}
    model = model_of(translated, mean, std, classes, provenance | noted)
    scaled = "pixels are divided by 255, then " if len(model.graph.input_shape) == 3 else ""
    words = [", ".join(f"{value:g}" for value in values[:4]) for values in (model.mean, model.std)]
    normalisation = (
        f"inputs are normalised with mean {words[0]} and std {words[1]}"
        if mean is not None or std is not None
        else f"inputs are not normalised ({scaled}taken as they are); mean and std say otherwise"
    )
    named = f"{len(model.classes)} outputs" if model.classes else f"outputs {', '.join(model.graph.outputs)}"
    titles = "" if classes or not model.classes else " without names; classes gives them"
    return Imported(model, (*translated.notes, normalisation, named + titles, provenance["onnx"]))


def _origin(given: Any, proto: ModelProto) -> dict[str, str]:
    origin = given.name if isinstance(given, Path) else proto.graph.name
    producer = f"{proto.producer_name} {proto.producer_version}".strip()
    origins = {"imported from": printable(origin)} | ({"made by": printable(producer)} if producer else {})
    return origins

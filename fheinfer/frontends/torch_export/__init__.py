"""Networks from modules of PyTorch, by `torch.export`.

Nothing is guessed in silence: what was recognised or assumed is in the notes of `import_torch`, and in the provenance
of the model. An operation that is not supported is named, with its module and what to use instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fheinfer.data.files import printable
from fheinfer.errors import InputError
from fheinfer.frontends.importing import Imported, model_of
from fheinfer.model.describe import describe
from fheinfer.model.model import Model
from fheinfer.optional import needs_torch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fheinfer.frontends.translation import Translated


def from_torch(
    net: nn.Module,
    example: Tensor,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    classes: Sequence[str] | None = None,
    name: str | None = None,
    quiet: bool = False,
) -> Model:
    """A module as a model that can be calibrated and compiled; the module stays as it is.

    Args:
        net: taken in evaluation mode.
        example: an input as the module takes it, with a batch in front: (1, 3, 32, 32), (1, 30).
        mean: what the inputs of the module were normalised with: (x - mean) / std per channel of an image whose
            pixels are between 0 and 1, or per feature of a vector. Where nothing is given they are 0 and 1: arrays
            reach the network as they are, and pixels of image files divided by 255.
        std: see mean.
        classes: names of the outputs; numbers where none are given.
        name: of the network; that of the module's class where none is given.
        quiet: whether nothing is printed; otherwise what was recognised or assumed goes to standard error.

    Raises:
        GraphError: an operation that is not supported, by its name and module; control flow that depends on the input;
            several inputs; or outputs that differ from those of the module, which are always compared.
        WeightsError: weights that are not finite numbers.
        InputError: no module, or an example that it does not take.
        UsageError: mean without std, or PyTorch is not installed.
    """
    return import_torch(net, example, mean=mean, std=std, classes=classes, name=name).told(quiet)


def import_torch(
    net: nn.Module,
    example: Tensor,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    classes: Sequence[str] | None = None,
    name: str | None = None,
) -> Imported:
    """`from_torch` with notes: what was recognised or assumed, a line each."""
    with needs_torch("importing a module"):
        from torch import nn

        from fheinfer.frontends.torch_export.brevitas import plain
        from fheinfer.frontends.torch_export.checking import check
        from fheinfer.frontends.torch_export.exporting import example_of, export, unwrapped
        from fheinfer.frontends.torch_export.importer import translate
    if not isinstance(net, nn.Module):
        raise InputError(f"{printable(type(net).__name__, 80)} is no module of PyTorch; give an instance of nn.Module")
    net, one = unwrapped(net), example_of(example)
    title = printable(name or type(net).__name__, 100)
    simple = plain(net, one)
    translated = translate(export(simple.net, one), title)
    origin = {"imported from": f"PyTorch module {title}", "compared": check(simple.net, translated, one)}
    if simple.note:
        origin["quantised"] = simple.note
    return as_model(translated, mean, std, classes, origin)


def as_model(
    translated: Translated,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    classes: Sequence[str] | None,
    provenance: dict[str, str],
) -> Imported:
    """A translated graph as a model, with notes: what it takes and gives, and what was compared."""
    model = model_of(translated, mean, std, classes, provenance)
    notes = [provenance[key] for key in ("quantised", "compared") if key in provenance]
    return Imported(model, (*describe(model), *notes))

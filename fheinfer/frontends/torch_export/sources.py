"""Where modules come from: a file of `torch.export.save`, or a class that can be imported by name."""

from __future__ import annotations

import importlib
import sys
import zipfile
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fheinfer.data.files import one_line, printable
from fheinfer.errors import FheinferError, InputError, UsageError
from fheinfer.frontends.checkpoints import match, read_checkpoint
from fheinfer.frontends.importing import Imported
from fheinfer.frontends.torch_export import as_model, import_torch
from fheinfer.optional import needs_torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn
    from torch.export import ExportedProgram


_AS_MADE = "weights: those that the class makes (random unless it loads some)"


def is_program_file(path: Path) -> bool:
    """Whether a file is an archive as `torch.export.save` writes it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any("serialized_exported_program" in n or "/models/" in n for n in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def import_program(
    path: Path,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    classes: Sequence[str] | None = None,
    name: str | None = None,
) -> Imported:
    """The network of a `.pt2` file, which has its example and its shapes; see `import_torch`.

    Raises:
        InputError: no such file, or none that `torch.export.save` wrote.
        GraphError: exported for a batch of another size than one, in training mode, or with what is not supported.
    """
    with needs_torch("importing a .pt2 file"):
        import torch

        from fheinfer.frontends.torch_export.checking import check
        from fheinfer.frontends.torch_export.exporting import decomposed, quiet
        from fheinfer.frontends.torch_export.importer import translate
    where = printable(path)
    if not path.is_file():
        raise InputError(f"{where}: no such file; check the path")
    if not is_program_file(path):
        raise InputError(f"{where}: no exported program; write one with torch.export.save(program, {path.name!r})")
    try:
        with quiet():
            program = torch.export.load(path)
    except Exception as error:  # the reader raises errors of many modules
        raise InputError(f"{where}: cannot be read by PyTorch {torch.__version__}: {one_line(error)}") from None
    title = printable(name or path.stem, 100)
    try:
        with quiet():  # PyTorch warns of what it changes in its own files
            module, example = program.module(check_guards=False), _example(program)
            if _fixed(program) != 1:
                return import_torch(module, example, mean=mean, std=std, classes=classes, name=title)
            translated = translate(decomposed(program), title)
            origin = {"imported from": path.name, "compared": check(module, translated, example)}
        return as_model(translated, mean, std, classes, origin)
    except FheinferError as error:
        raise type(error)(f"{where}: {error}") from None


def _fixed(program: ExportedProgram) -> int:
    """Items of the batch that a program was exported for; 0 if it takes any number."""
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in program.graph_signature.user_inputs:
            shape = getattr(node.meta.get("val"), "shape", ())
            return int(shape[0]) if shape and isinstance(shape[0], int) else 0
    return 0


def _example(program: ExportedProgram) -> Tensor:
    import torch

    args, kwargs = program.example_inputs or ((), {})
    leaves = torch.utils._pytree.tree_leaves((args, kwargs))
    if len(leaves) != 1 or not isinstance(leaves[0], torch.Tensor):
        raise InputError(f"has {len(leaves)} inputs; a network has one tensor as its input: join several into one")
    batch = _fixed(program)
    if batch > 1:
        raise InputError(f"was exported for batches of {batch}; export it for a batch of one")
    return leaves[0][:1].float()


def import_class(
    target: str,
    shape: Sequence[int],
    *,
    state: Path | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    classes: Sequence[str] | None = None,
    name: str | None = None,
) -> Imported:
    """The network that a class of the user's makes, which is imported by name; this runs the user's code.

    Args:
        target: "package.module:Class", or a function that returns a module; called without arguments. Modules in the
            current folder are found, too.
        shape: of one input without the batch, such as (3, 32, 32).
        state: a file with its state dict, in any form that people save.

    Raises:
        UsageError: no such class, or one that needs arguments.
        WeightsError: a state dict that does not fit.
        GraphError, InputError: see `import_torch`.
    """
    with needs_torch("importing a module"):
        import torch
    net = _made(target)
    notes = (_AS_MADE,) if state is None else _fill(net, state)
    example = torch.zeros(1, *(int(size) for size in shape))
    imported = import_torch(net, example, mean=mean, std=std, classes=classes, name=name)
    return Imported(imported.model, (*notes, *imported.notes))


def _made(target: str) -> nn.Module:
    from torch import nn

    module, _, attribute = target.partition(":")
    if not module or not attribute:
        raise UsageError(f"{printable(target)} names no class; write it as package.module:Class")
    with _current_folder():
        made = _named(module, attribute)
        try:
            net = made if isinstance(made, nn.Module) else made()
        except Exception as error:  # whatever the user's code raises
            raise UsageError(f"{printable(target)} cannot be made without arguments: {one_line(error)}") from None
    if not isinstance(net, nn.Module):
        raise UsageError(f"{printable(target)} makes a {type(net).__name__}, and no module of PyTorch")
    return net


def _named(module: str, attribute: str) -> Any:
    """What a module of the user's has under a name."""
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:  # whatever the user's code raises
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{module}.".startswith(f"{missing}."):
            raise UsageError(
                f"no module {printable(module)!r} in this folder or among the installed packages; check the name"
            ) from None
        raise UsageError(f"module {printable(module)!r} cannot be imported: {one_line(error)}") from None
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise UsageError(f"no class {printable(attribute)!r} in module {printable(module)!r}; check the name")
        found = getattr(found, part)
    return found


@contextmanager
def _current_folder() -> Iterator[None]:
    before = list(sys.path)
    sys.path.insert(0, str(Path.cwd()))
    try:
        yield
    finally:
        sys.path[:] = before


def _fill(net: nn.Module, state: Path) -> tuple[str, ...]:
    """Puts the tensors of a checkpoint into a module; what was recognised, a line each."""
    import torch

    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items() if value.dtype.is_floating_point}
    found = match(read_checkpoint(state), shapes)
    net.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in found.arrays.items()}, strict=False)
    return found.notes

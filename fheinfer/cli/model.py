"""`fheinfer model import` and `fheinfer model show`: model files. `fheinfer model list`: models of a service."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fheinfer.cli.options import DataOption, JsonOption, OutputOption, TokenOption, refuse
from fheinfer.errors import CorruptArtifactError, InputError, UsageError

if TYPE_CHECKING:
    from fheinfer.crypto.key_policy import KeyPolicy
    from fheinfer.model.model import Model
    from fheinfer.service.protocol import ModelInfo

MAX_BYTES = 1 << 24
"""Of a file of class names."""

model_app = typer.Typer(no_args_is_help=True, help="Model files: import and show; models of a service: list.")


@model_app.command("import")
def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE|MODULE:CLASS",
            help=(
                "An ONNX file, a .pt2 of torch.export, a checkpoint of a network of the zoo (PyTorch, safetensors, "
                "npz), a model; or package.module:Class, which runs that module."
            ),
        ),
    ],
    output: OutputOption,
    network: Annotated[
        str | None,
        typer.Option(
            "--network", metavar="N", help="Network of the zoo that a checkpoint is of.", show_default="resnet20"
        ),
    ] = None,
    example_shape: Annotated[
        str | None,
        typer.Option(
            "--example-shape",
            metavar="1,3,32,32",
            help="Shape of an input, a batch of one: of a class, and of ONNX files that leave it open.",
        ),
    ] = None,
    no_batch: Annotated[
        bool, typer.Option("--no-batch", help="The first axis of the input of an ONNX file is no batch, but data.")
    ] = False,
    weights: Annotated[
        Path | None, typer.Option("--weights", metavar="FILE", help="Checkpoint of a class, in any form.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="N", help="Name of the model.", show_default="that of the source")
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(metavar="M,M,M", help="Mean of each channel.", show_default="0, or CIFAR-10's of the zoo"),
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(
            metavar="S,S,S",
            help="Standard deviation of each channel.",
            show_default="1, or CIFAR-10's of the zoo",
        ),
    ] = None,
    classes: Annotated[
        str | None, typer.Option(metavar="FILE|A,B,...", help="Class names: one per line, or with commas between.")
    ] = None,
    ranges: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Activation ranges: what `fheinfer calibrate` wrote.")
    ] = None,
    data: DataOption = None,
    entry: Annotated[
        str | None, typer.Option(metavar="KEY", help="Which state_dict, where the file holds several.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Read a network of one's own, or weights that another program saved, and write a model file."""
    from fheinfer.cli.display import err, out, print_json
    from fheinfer.frontends.anything import Wishes, import_any
    from fheinfer.storage import require_writable

    if (mean is None) != (std is None):
        raise UsageError("--mean and --std go together; give both, or neither")
    if ranges is not None:
        refuse("--ranges has what it is for", data=data)
    require_writable(output)
    wishes = Wishes(
        network=network,
        shape=None if example_shape is None else _shape(example_shape),
        state=weights,
        mean=None if mean is None else _numbers("--mean", mean),
        std=None if std is None else _numbers("--std", std),
        classes=None if classes is None else _distinct(_classes(classes)),
        name=name,
        entry=entry,
        batch=False if no_batch else None,
    )
    found = import_any(source, wishes)
    model, measured = _with_ranges(found.model, ranges, data)
    model.save(output)
    notes = (*found.notes, *measured)
    if as_json:
        print_json({"notes": notes, **_fields(output, model)})
        return
    for note in notes:
        err.print(note)
    out.print(f"{output}: {model.name}, {len(model.tensors)} tensors, identity {model.identity[:16]}")
    if not model.ranges and model.graph.ranged:
        out.print(f"activation ranges are missing: measure them with `fheinfer calibrate {output} --data PATH`")


def _with_ranges(model: Model, ranges: Path | None, data: Path | None) -> tuple[Model, tuple[str, ...]]:
    """The model with ranges of a file, or measured on training data; and notes on what was measured."""
    if ranges is not None:
        from fheinfer.evaluation.ranges import load

        return model.with_ranges(load(ranges, model).largest()), ()
    if data is None:
        return model, ()
    from fheinfer.cli.display import steps_bar
    from fheinfer.data import datasets
    from fheinfer.data.loaders import from_python
    from fheinfer.optional import require
    from fheinfer.train.calibrate import IMAGES, calibrated, measure_ranges

    require("torch", "measuring ranges")
    examples = from_python(datasets.source(data), model.graph.input_shape, IMAGES)
    with steps_bar("measuring") as progress:
        found = measure_ranges(model, examples, progress=progress)
    said = f"activation ranges were measured on {found.images:,} {examples.noun}"
    return calibrated(model, found, examples), (*examples.notes, said)


def _shape(text: str) -> tuple[int, ...]:
    """The shape of one input, without the batch of one in front."""
    try:
        sizes = tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        sizes = ()
    if len(sizes) < 2 or sizes[0] != 1 or min(sizes) < 1:
        raise UsageError(
            f"--example-shape {text!r}: give a batch of one and the sizes of an input, such as 1,3,32,32 or 1,30"
        )
    return sizes[1:]


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} {text!r}: give numbers with commas between, one per channel") from None


def _classes(text: str) -> tuple[str, ...]:
    """Names from a file (one per line, or a JSON list) or from the words themselves."""
    from pydantic import RootModel

    from fheinfer.data.files import printable, read_given
    from fheinfer.storage import parse_json

    path = Path(text)
    if "," in text and not path.is_file():
        return tuple(part.strip() for part in text.split(","))
    content = read_given(path, MAX_BYTES, InputError, "a file of class names").decode("utf-8", "replace")
    if content.lstrip().startswith("["):
        try:
            return parse_json(content.encode(), path, RootModel[tuple[str, ...]]).root
        except CorruptArtifactError:
            raise InputError(f"{printable(path)}: no JSON list of names; write one name per line") from None
    return tuple(line.strip() for line in content.splitlines() if line.strip())


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names; an answer by a name that two classes have would say nothing."""
    from fheinfer.data.files import printable

    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise UsageError(f"--classes has {printable(twice, 80)!r} twice; give each class a name of its own")
    return names


def _fields(path: Path, model: Model) -> dict[str, Any]:
    return {
        "file": str(path),
        "network": model.name,
        "identity": model.identity,
        "input_shape": model.graph.input_shape,
        "outputs": {name: model.graph.shapes[name] for name in model.graph.outputs},
        "final": model.final,
        "numbers": _count(model),
        "mean": model.mean,
        "std": model.std,
        "classes": model.classes,
        "ranges": dict(model.ranges),
        "provenance": dict(model.provenance),
    }


def _count(model: Model) -> int:
    return sum(array.size for array in model.tensors.values())


@model_app.command()
def show(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="A model file.", show_default="the one of set 1")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a model file holds."""
    from fheinfer.cli.display import out, print_json, table
    from fheinfer.data.resources import default_model
    from fheinfer.evaluation.ranges import in_words
    from fheinfer.model.model import load

    path = file or default_model()
    model = load(path)
    numbers = _count(model)
    if as_json:
        print_json(_fields(path, model))
        return
    rows = [[name, in_words(bound)] for name, bound in model.ranges.items()]
    table(str(path), ["activation", "largest input"], rows)
    out.print(f"{model.name}, {numbers:,} numbers, input {model.graph.input_shape}, mean {model.mean}, std {model.std}")
    few = ", ".join(model.classes[:20]) + (f" and {len(model.classes) - 20} more" if len(model.classes) > 20 else "")
    out.print(f"{len(model.classes)} classes: {few}")


@model_app.command("list")
def list_(
    server: Annotated[str, typer.Option("--server", metavar="URL", help="The service: https://HOST[:PORT].")],
    token_file: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the models of a service, and what a run of each is predicted to take there."""
    from fheinfer.cli.display import print_json, size, table
    from fheinfer.cli.remote import connect

    with connect(server, token_file) as remote:
        models = remote.models()
    if as_json:
        print_json([info.model_dump(mode="json") for info in models])
        return
    rows = []
    for info in models:
        policy = _policy(info)
        shape = "x".join(map(str, info.input_shape))
        accuracy = "-" if info.accuracy is None else f"{100 * info.accuracy:.1f} %"
        seconds = info.seconds[policy]
        taken = (
            f"{seconds:.3g}" if seconds < 100 else f"{seconds:.0f}",
            size(info.key_bytes[policy]),
            size(info.input_bytes),
        )
        rows.append([info.name, info.model, info.set, shape, accuracy, *taken, info.plan[:8], info.description])
    columns = [
        "name",
        "network",
        "set",
        "input",
        "accuracy",
        "seconds",
        "keys",
        "encrypted input",
        "plan",
        "description",
    ]
    table(f"models of {remote.url}, seconds on the reference machine", columns, rows, left=3)


@model_app.command()
def keys(
    server: Annotated[str, typer.Option("--server", metavar="URL", help="The service: https://HOST[:PORT].")],
    delete: Annotated[
        list[str] | None,
        typer.Option(
            "--delete", metavar="KEY_ID", help="Delete these keys there, and jobs that wait for them; repeat."
        ),
    ] = None,
    token_file: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what a service keeps of this client: evaluation keys, and jobs under them. Keys here are left alone."""
    from datetime import datetime

    from fheinfer.cli.display import print_json, size, table
    from fheinfer.cli.remote import connect

    with connect(server, token_file) as remote:
        for key_id in delete or ():
            remote.delete_keys(key_id)
        found, jobs = remote.keys(), remote.jobs()
    if as_json:
        fields = {"keys": found, "jobs": jobs}
        print_json({name: [one.model_dump(mode="json") for one in many] for name, many in fields.items()})
        return
    rows = []
    for one in found:
        used = datetime.fromtimestamp(one.used).strftime("%Y-%m-%d %H:%M")
        count = sum(job.key_id == one.key_id for job in jobs)
        rows.append([one.key_id, size(one.received), "yes" if one.complete else "no", used, str(count)])
    table(f"keys at {remote.url}", ["key id", "bytes", "complete", "last used", "jobs"], rows)


def _policy(info: ModelInfo) -> KeyPolicy:
    """The kind of keys that `RemoteModel.prepare` makes for a model."""
    from fheinfer.crypto.key_policy import Prediction, choose

    return choose(
        {key: Prediction(info.seconds[key], info.memory[key]) for key in info.seconds}, "auto", info.worker_memory
    )

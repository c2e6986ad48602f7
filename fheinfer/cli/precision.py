"""`fheinfer precision`: bits that every layer of an encrypted run keeps."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fheinfer.cli import choices, unlock
from fheinfer.cli.options import (
    ActOption,
    BackendOption,
    DepthOption,
    JsonOption,
    KeysOption,
    MemoryOption,
    ModelOption,
    PassphraseOption,
    RunsOption,
    SetOption,
    ThreadsOption,
    VerboseOption,
)
from fheinfer.errors import UsageError
from fheinfer.optional import require

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from fheinfer.evaluation.precision import LayerPrecision

FORMATS = (".png", ".svg", ".pdf")


def precision(
    image: Annotated[str, typer.Option("--image", metavar="FILE", help="Image file, or the name of one in inputs/.")],
    depth: DepthOption = None,
    set_name: SetOption = None,
    model: ModelOption = None,
    act: ActOption = None,
    backend: BackendOption = None,
    keys: KeysOption = None,
    output: Annotated[
        Path, typer.Option("--plot", metavar="FILE", help="Where the plot goes: .png, .svg or .pdf.")
    ] = Path("precision.png"),
    runs: RunsOption = None,
    verbose: VerboseOption = False,
    threads: ThreadsOption = None,
    memory: MemoryOption = None,
    passphrase_file: PassphraseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare every layer of an encrypted run with the same plan on slots and with PyTorch."""
    from fheinfer.cli.display import EvaluationView, print_json
    from fheinfer.cli.inputs import image_input
    from fheinfer.compiler.plan import load as load_plan
    from fheinfer.local import infer_run
    from fheinfer.model.model import load
    from fheinfer.runs import Run, run_name
    from fheinfer.storage import require_writable

    if output.suffix.lower() not in FORMATS:
        raise UsageError(f"{output}: no plot of that kind; name a {', '.join(FORMATS)}")
    require_writable(output)
    require("matplotlib", "the plot of `fheinfer precision`")
    require("torch", "`fheinfer precision`")
    folder = choices.plan_folder(None, set_name, model, act, backend)
    plan = load_plan(folder)
    spec, loaded = plan.client, load(choices.model_file(model, choices.set_of(set_name, model, backend)))
    where = choices.keys_folder(keys, spec.params.name)
    client = unlock.open_client(where, spec, passphrase_file)
    x = image_input(image, spec, depth)
    name = run_name("precision", plan.identity, client.key_id, x.tobytes())
    with Run(runs or choices.RUNS, name, resume=False) as run:
        with EvaluationView(verbose=verbose) as view:
            infer_run(
                folder,
                where,
                lambda: client,
                x,
                run,
                keep_layers=True,
                on_event=view,
                threads=threads,
                memory=memory,
            )
        from fheinfer.evaluation.plain import plain_layers
        from fheinfer.evaluation.precision import compare, plot
        from fheinfer.runtime.slots import run_slots

        slots: dict[str, NDArray[np.float64]] = {}
        run_slots(plan, x, layers=slots)
        rows = compare(plan, client, run.folder, slots, plain_layers(loaded, x))
        plot(rows, output, f"{plan.model}, set {plan.params.name}, {Path(image).name}")
        run.finish()
    if as_json:
        print_json([asdict(row) for row in rows])
    else:
        _print(rows, f"{plan.model} on set {plan.params.name}: bits kept", output)


def _print(rows: Sequence[LayerPrecision], title: str, output: Path) -> None:
    from fheinfer.cli.display import out, table

    columns = ["step", "op", "level", "seconds", "largest", "slots min", "slots median", "torch min", "torch median"]
    bits = [(r.slots_minimum, r.slots_median, r.torch_minimum, r.torch_median) for r in rows]
    lines = [
        [
            r.step,
            r.op,
            r.level,
            f"{r.seconds:.2f}",
            f"{r.largest:.3g}",
            *("-" if b is None else f"{b:.1f}" for b in four),
        ]
        for r, four in zip(rows, bits, strict=True)
    ]
    table(title, columns, lines, left=2)
    out.print(f"plot: {output}")

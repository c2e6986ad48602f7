"""`fheinfer accuracy`: a network over a data set, in clear, by polynomials, with simulated noise, or encrypted."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fheinfer.cli import choices
from fheinfer.cli.encrypted import Job, evaluated, threads_of
from fheinfer.cli.options import (
    ActOption,
    BitsOption,
    CsvOption,
    DataOption,
    JsonOption,
    KeysOption,
    MarginOption,
    MemoryOption,
    ModelOption,
    PartOption,
    PassphraseOption,
    PlanOption,
    RayOption,
    ResumeOption,
    RunsOption,
    SetOption,
    ThreadsOption,
    refuse,
)
from fheinfer.errors import MismatchError, UsageError
from fheinfer.optional import needs_torch, require

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fheinfer.compiler.plan import Plan
    from fheinfer.data.labelled import DataSet
    from fheinfer.evaluation.accuracy import Evaluation
    from fheinfer.model.model import Model

TOP = (1, 2, 3, 5)
MODES = ("clear", "approx", "simulate", "encrypted")


def accuracy(
    mode: Annotated[
        str, typer.Option("--mode", metavar="M", help="clear, approx (polynomials), simulate (noise) or encrypted.")
    ] = "approx",
    set_name: SetOption = None,
    model: ModelOption = None,
    plan_folder: PlanOption = None,
    act: ActOption = None,
    data: DataOption = None,
    part: PartOption = None,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Evaluate only the first N examples.")] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            metavar="NAME",
            help="Output that the labels are of, where there are several.",
            show_default="all",
        ),
    ] = None,
    top_k: Annotated[
        str | None, typer.Option(metavar="K,...", help="Accuracies to report.", show_default="1,2,3,5")
    ] = None,
    margin: MarginOption = None,
    bits: BitsOption = None,
    seed: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Seed of the simulated noise.", show_default="0")
    ] = None,
    keys: KeysOption = None,
    runs: RunsOption = None,
    resume: ResumeOption = False,
    threads: ThreadsOption = None,
    memory: MemoryOption = None,
    ray: RayOption = None,
    passphrase_file: PassphraseOption = None,
    csv_file: CsvOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure accuracy, bits against PyTorch and the ranges that were left over a data set: in clear, by polynomials or
    with the noise of an encrypted run, all without keys; or encrypted. By polynomials without --set, nothing is
    compiled: any network, any activation. Accuracy is of examples with labels and an output of classes."""
    from fheinfer.compiler.plan import load as load_plan
    from fheinfer.model.model import load
    from fheinfer.storage import PRIVATE, PUBLIC, atomic_write, require_writable

    _check(mode, act, margin, seed)
    planless = mode == "approx" and set_name is None and plan_folder is None
    if plan_folder is not None:
        refuse("it is part of the plan", **{"set": set_name}, act=act, margin=margin, bits=bits)
    if mode == "clear":
        refuse("in clear there are no polynomials", bits=bits)
    if mode != "encrypted":
        only = {"keys": keys, "runs": runs, "resume": resume, "threads": threads, "memory": memory, "ray": ray}
        refuse("it is for --mode encrypted", **only, passphrase_file=passphrase_file)
    if ray is not None:
        require("ray", "evaluation on several machines")
    if csv_file is not None:
        require_writable(csv_file)
    params = choices.set_of(set_name, model)
    loaded = load(choices.model_file(model, params))
    choices.require_relus(loaded, act)
    plan = None if plan_folder is None else load_plan(plan_folder)
    if plan is not None:
        _check_plan(mode, plan, loaded, model)
    names = _outputs(loaded, output)
    part, examples = examples_of(data, part or "test", loaded, limit, names, whole=part is None)
    ks = _counted(top_k, len(examples.classes))
    folder = plan_folder
    if folder is None and mode != "clear" and not planless:
        folder = _compiled(set_name, model, act, margin, bits)
        plan = load_plan(folder)
    if mode == "encrypted" and folder is not None and plan is not None:
        job = Job(
            folder,
            plan.client,
            choices.keys_folder(keys, plan.client.params.name),
            runs or choices.RUNS,
            passphrase_file,
            threads if ray else threads_of(threads),
            memory,
            resume,
            ray=ray,
        )
        found = _encrypted(loaded, plan, examples, names, job)
    elif planless:
        found = _by_polynomials(loaded, examples, names, act, bits, margin)
    else:
        found = run(mode, loaded, plan, examples, seed or 0, outputs=names)
    if csv_file is not None:
        atomic_write(
            csv_file, [_csv(loaded, found, bool(examples.classes)).encode()], PRIVATE if mode == "encrypted" else PUBLIC
        )
    if as_json:
        from fheinfer.cli.display import print_json

        print_json(_fields(mode, plan, found, ks))
    else:
        _print(mode, loaded, plan, found, ks, part)


def _outputs(model: Model, named: str | None) -> tuple[str, ...]:
    names = model.graph.outputs
    if named is not None and named not in names:
        raise UsageError(f"--output {named!r}: {model.name} has {', '.join(names)}")
    return names if named is None else (named,)


def _classes(model: Model, names: Sequence[str], data: DataSet) -> tuple[str, ...]:
    """Classes that labels are counted by: none of data without labels, and of outputs that are no scores."""
    from fheinfer.crypto.client_tensors import names_of_classes

    if not data.labelled or not any(counted(model, name) for name in names):
        return ()
    if len(names) > 1:
        raise UsageError(f"the outputs are {', '.join(names)}; name the one that the labels are of by --output")
    classes = model.classes or tuple(map(str, range(model.graph.shapes[names[0]][0])))
    no, *yes = names_of_classes(classes)
    if len(classes) == 1 and no != "0" and len(data.classes) == 2 and classes[0] in data.classes:
        (no,) = set(data.classes) - set(classes)  # the data knows what an example is that is not so
    return (no, *yes)


def counted(model: Model, output: str) -> bool:
    """Whether an output tells a class, so that labels can be counted."""
    from fheinfer.crypto.client_tensors import tells_class

    return tells_class(model.graph.shapes[output], model.final)


def _check(mode: str, act: str | None, margin: float | None, seed: int | None) -> None:
    if mode not in MODES:
        raise UsageError(f"no mode {mode!r}; there are {', '.join(MODES)}")
    if mode == "clear":
        refuse("in clear there are no polynomials", act=act, margin=margin)
    if mode != "simulate":
        refuse("it is for --mode simulate", seed=seed)


def _check_plan(mode: str, plan: Plan, loaded: Model, file: Path | None) -> None:
    """A plan that was named needs the model that it was compiled from: for classes, and results in clear."""
    if mode == "clear":
        raise UsageError("--plan: in clear the model is evaluated, and no plan; leave it out")
    if file is None:
        raise UsageError("--plan DIR goes with --model FILE: the model that the plan was compiled from")
    theirs = (plan.model, plan.client.input_shape, plan.outputs)
    if theirs != (loaded.name, loaded.graph.input_shape, loaded.graph.outputs):
        raise MismatchError(f"the plan is one of {plan.model}, and {file} has {loaded.name}: name its own model")
    if plan.compiled_of not in ("", loaded.identity):
        raise MismatchError(f"the plan is one of {plan.model} with other weights than {file} has: compile that again")


def _compiled(
    set_name: str | None, model: Path | None, act: str | None, margin: float | None, bits: float | None
) -> Path:
    from fheinfer.cli.display import spinner

    with spinner("compiling"):
        return choices.plan_folder(None, set_name, model, act, None, margin, bits)


def run(
    mode: str,
    model: Model,
    plan: Plan | None,
    data: DataSet,
    seed: int = 0,
    title: str = "examples",
    outputs: Sequence[str] = (),
    clear: Evaluation | None = None,
) -> Evaluation:
    """`evaluation.accuracy.evaluate` under a bar."""
    from fheinfer.cli.display import steps_bar

    with needs_torch("evaluation over a data set"):
        from fheinfer.evaluation.accuracy import evaluate
    with steps_bar(title) as progress:
        known = clear.outputs if clear else None
        return evaluate(model, plan, data, mode, outputs=outputs, clear=known, seed=seed, progress=progress)


def _by_polynomials(
    model: Model, data: DataSet, outputs: Sequence[str], act: str | None, bits: float | None, margin: float | None
) -> Evaluation:
    """Polynomials in place of activations and max pools, and nothing else of a plan."""
    from fheinfer.cli.display import steps_bar
    from fheinfer.compiler.activations import RANGE_MARGIN, polynomials_of

    with needs_torch("evaluation over a data set"):
        from fheinfer.evaluation.accuracy import evaluate_polynomials
    program = polynomials_of(model, act, bits, RANGE_MARGIN if margin is None else margin)
    with steps_bar("examples") as progress:
        return evaluate_polynomials(model, program, data, outputs, progress)


def _encrypted(model: Model, plan: Plan, data: DataSet, outputs: Sequence[str], job: Job) -> Evaluation:
    """Every example encrypted, evaluated in another process and decrypted; against the same in clear and on slots."""
    import numpy as np

    from fheinfer.cli.inputs import example_input
    from fheinfer.crypto.client_tensors import class_logits
    from fheinfer.evaluation.accuracy import of_examples
    from fheinfer.evaluation.metrics import precision_bits, together

    clear = run("clear", model, plan, data, outputs=outputs)
    exact = run("approx", model, plan, data, outputs=outputs, clear=clear)
    inputs = {f"{index:05d}": example_input(x, job.spec, data) for index, x in enumerate(data.inputs)}
    with evaluated(job, job.client(), inputs) as done:
        found = {name: np.stack([done.outputs[x][name] for x in inputs]) for name in outputs}
    pairs = {name: list(zip(clear.outputs[name], values, strict=True)) for name, values in found.items()}
    worst = {name: [precision_bits(one, other).minimum for one, other in each] for name, each in pairs.items()}
    only = next(iter(found)) if data.classes else None
    return replace(
        exact,
        mode="encrypted",
        outputs=found,
        seconds=done.seconds["evaluate"],
        pytorch_bits={name: bits for name, each in worst.items() if (bits := of_examples(each))},
        bits=together(
            [
                precision_bits(exact.outputs[name], values)
                for name, values in found.items()
                if np.isfinite(exact.outputs[name]).all()
            ]
        ),
        same_class=int((class_logits(found[only]).argmax(1) == clear.logits.argmax(1)).sum()) if only else None,
    )


def examples_of(
    data: Path | None, part: str, model: Model, limit: int | None, outputs: Sequence[str], whole: bool = False
) -> tuple[str, DataSet]:
    """(The part, its examples as the network takes them, with labels by the model's classes).

    It has no classes where nothing can be counted: of data without labels, and of outputs that are no scores.

    Args:
        outputs: of the model, which labels may be of.
        whole: of data in one piece take all of it, whatever `part` says.

    Raises:
        UsageError: another part than train, test or all; or labels that may be of any of several outputs.
        DatasetError: data that is missing, damaged, or of another shape than the network's input.
    """
    from fheinfer.cli.display import err
    from fheinfer.data import datasets

    require("torch", "evaluation over a data set")
    if part not in datasets.PARTS:
        raise UsageError(f"no part {part!r} of the data; there are {', '.join(datasets.PARTS)}")
    path = datasets.source(data)
    if whole and not datasets.has_parts(path):
        part = "all"
    found = datasets.load(path, part, model.graph.input_shape, limit)
    classes = _classes(model, outputs, found)
    found = found.labelled_as(classes) if classes else replace(found, classes=())
    for note in found.notes:
        err.print(note)
    return part, found if limit is None else found.first(limit)


def _counted(text: str | None, classes: int) -> list[int]:
    """The k of top-k: those that are asked for, or those that say something; none where there are no classes."""
    from fheinfer.evaluation.accuracy import check_top

    if not classes:
        refuse("there are no labels, or no scores of classes, to count", top_k=text)
        return []
    if text is None:
        return [k for k in TOP if k == 1 or k < classes]
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--top-k {text!r}: give numbers with commas between, such as 1,2,3,5") from None
    check_top(values, classes)
    return values


def _csv(model: Model, found: Evaluation, labelled: bool) -> str:
    from fheinfer.cli.results import rows_csv
    from fheinfer.crypto.client_tensors import class_logits
    from fheinfer.evaluation.metrics import top_class

    rows: list[dict[str, Any]] = []
    for index, label in enumerate(found.labels):
        each: dict[str, dict[str, Any]] = {}
        for name, values in found.outputs.items():
            y = values[index]
            if counted(model, name):
                each[name] = {"class": top_class(class_logits(y)), "logits": y}
            else:
                each[name] = {"values": y}
        row = {"image": index, **({"label": label} if labelled else {})}
        rows.append(row | (next(iter(each.values())) if len(each) == 1 else {"outputs": each}))
    return rows_csv(rows)


def _fields(mode: str, plan: Plan | None, found: Evaluation, ks: list[int]) -> dict[str, Any]:
    from fheinfer.cli.plan import predictions

    return {
        "mode": mode,
        "set": plan.params.name if plan else None,
        "activation": plan.activation if plan else None,
        "images": len(found.labels),
        "top": {k: found.top(k) for k in ks},
        "seconds": found.seconds,
        "overflows": [asdict(overflow) for overflow in found.overflows],
        "reached": found.reached,
        "bits": asdict(found.bits) if found.bits else None,
        "pytorch_bits": {name: asdict(bits) for name, bits in found.pytorch_bits.items()},
        "same_class_as_clear": found.same_class,
        "predicted": predictions(plan.client) if plan else None,
        "bootstraps": plan.bootstraps if plan else None,
    }


def _print(mode: str, model: Model, plan: Plan | None, found: Evaluation, ks: list[int], part: str) -> None:
    from fheinfer.cli.display import err, out, size, table
    from fheinfer.cli.plan import predictions, this_machine

    title = f"{model.name}, {len(found.labels):,} {'' if part == 'all' else f'{part} '}examples, {mode}"
    if plan:
        title += f", set {plan.params.name}"
    if plan and model.graph.has_relus:
        title += f", {plan.activation}"
    if ks:
        table(title, ["", "accuracy"], [[f"top {k}", f"{100 * found.top(k):.2f} %"] for k in ks])
    else:
        out.print(title, style="italic")
        err.print("no accuracy: the data has no labels, or the network no single output of classes")
    if found.same_class is not None:
        out.print(f"the same class as in clear on {found.same_class} of {len(found.labels)}")
    for name, bits in found.pytorch_bits.items():
        out.print(
            f"worst value of output {name} against PyTorch: {bits.median:.1f} bits in the median, "
            f"{bits.minimum:.1f} at worst"
        )
    if found.bits:
        out.print(f"values against the same without noise: {found.bits}")
    out.print(f"took {found.seconds:.0f} s")
    if plan:
        least = min(predictions(plan.client).values(), key=lambda needs: float(needs["seconds"]))
        out.print(
            f"encrypted: {plan.bootstraps} bootstraps, about {least['seconds']:.0f} s each on {this_machine()}, "
            f"{size(least['peak_memory'])}"
        )
    for overflow in found.overflows:
        # A comparison of a max pool is a part of a node, and no node itself.
        scaled = any(node.name == overflow.activation and node.op.kind == "paf" for node in model.graph)
        wider = "raise --margin, or measure ranges on more data (fheinfer calibrate)"
        err.print(
            f"warning: {overflow.activation} leaves its range on {overflow.images:,} examples, by a factor of "
            f"{overflow.largest:.3g}; {'its scale is part of the model' if scaled else wider}"
        )

"""`fheinfer infer` and `fheinfer demo`: client and server on one machine, in two processes; or a service as server."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fheinfer.cli import choices
from fheinfer.cli.encrypted import Job, evaluated, threads_of
from fheinfer.cli.options import (
    ActOption,
    BitsOption,
    CsvOption,
    DepthOption,
    ImageOption,
    JsonOption,
    KeysOption,
    MemoryOption,
    PassphraseOption,
    PlanOption,
    ResumeOption,
    RunsOption,
    ServerOption,
    SetOption,
    ThreadsOption,
    TokenOption,
    ValuesOption,
    VerboseOption,
    refuse,
)
from fheinfer.errors import UsageError
from fheinfer.optional import have, require

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fheinfer.cli.results import Taken
    from fheinfer.crypto.client_spec import ClientSpec
    from fheinfer.evaluating import EvaluatingProcess, Event
    from fheinfer.model.model import Model
    from fheinfer.service.remote import RemoteModel

    F64 = NDArray[np.float64]
    Outputs = dict[str, F64]


@dataclass(frozen=True)
class Report:
    """Where results go, and the model that they are compared with."""

    model: Model | None
    csv: Path | None
    output: Path | None
    json: bool


def infer(
    image: ImageOption = None,
    images: Annotated[
        list[Path] | None,
        typer.Option("--images", metavar="DIR|FILE", help="Folder of images, or one image; repeat."),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--input", "-i", metavar="FILE.npy|.csv", help="Array of one input or many, or a vector on every line."
        ),
    ] = None,
    depth: DepthOption = None,
    plan: PlanOption = None,
    set_name: SetOption = None,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            metavar="FILE|NAME",
            help="Model file; with --server the name of one of its models.",
            show_default="the one that comes with the set; the only one of the server",
        ),
    ] = None,
    act: ActOption = None,
    bits: BitsOption = None,
    backend: Annotated[
        str | None,
        typer.Option(
            "--backend",
            metavar="NAME",
            help="Who evaluates: native, openfhe (the reference), or slots: in clear, without keys.",
            show_default="that of the set",
        ),
    ] = None,
    keys: KeysOption = None,
    server: ServerOption = None,
    token_file: TokenOption = None,
    rotations: Annotated[
        str | None,
        typer.Option(
            "--rotations",
            metavar="minimal|fast|auto",
            help="With --server: which rotation keys to make for it; other ones are replaced.",
            show_default="auto: the fastest that it has the memory for",
        ),
    ] = None,
    accept_plan: Annotated[
        bool,
        typer.Option("--accept-plan", help="Take the plan that the server has now, where it was another one before."),
    ] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Compare with PyTorch on the clear image.")] = False,
    resume: ResumeOption = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the ciphertexts of this run.")] = False,
    runs: RunsOption = None,
    csv_file: CsvOption = None,
    output: ValuesOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
    threads: ThreadsOption = None,
    memory: MemoryOption = None,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Encrypt an image, an array or many, evaluate in a process without the secret, decrypt the results."""
    if (image is not None) + bool(images) + (source is not None) != 1:
        raise UsageError("give one image by --image, a folder of them by --images, or arrays by --input")
    if source is not None:
        refuse("it is of images, not of arrays", depth=depth)
    if csv_file is not None:
        from fheinfer.storage import require_writable

        require_writable(csv_file)
    if server is not None:
        named = {"set": set_name, "plan": plan, "act": act, "bits": bits, "backend": backend, "plain": plain}
        local = {"resume": resume, "keep": keep, "runs": runs, "threads": threads, "memory": memory, "verbose": verbose}
        refuse("the server evaluates, and says what its models are", **named, **local)
        from fheinfer.cli.remote import connect, opened

        with connect(server, token_file, keys, rotations=rotations or "auto") as remote:
            found = opened(remote, model, accept_plan, passphrase_file)
            report = Report(None, csv_file, output, as_json)
            _by_service(found, report, *_inputs(found.spec, image, images, source, depth), many=bool(images))
        return
    refuse("it is of a --server", token_file=token_file, accept_plan=accept_plan, rotations=rotations)
    if plain:
        require("torch", "--plain")
    slots = backend == "slots"
    if backend is not None:
        choices.require_backend(backend, "slots")
    if slots:
        if images:
            raise UsageError("--backend slots takes one input; `fheinfer accuracy` runs a plan on many in clear")
        only = {"keys": keys, "runs": runs, "resume": resume, "keep": keep, "threads": threads, "memory": memory}
        refuse("--backend slots encrypts nothing", **only, passphrase_file=passphrase_file)
    compared = _named_model(plan, model, plain)
    with ExitStack() as stack:
        # First of all: it imports and loads in parallel with everything else that is done here.
        process = None if slots else stack.enter_context(_started(threads_of(threads), memory))
        folder = choices.plan_folder(
            plan, set_name, None if plan else model, act, None if slots else backend, bits=bits
        )
        spec = choices.spec_of(folder)
        if output is not None:
            from fheinfer.cli.results import require_arrays

            require_arrays(output, spec.outputs)
        where = choices.keys_folder(keys, spec.params.name)
        if process is not None:
            from fheinfer.crypto.key_writer import SERVER_FOLDER

            process.load(folder, where / SERVER_FOLDER)
        file = compared or (choices.model_file(model, spec.params) if plain else None)
        job = Job(
            folder,
            spec,
            where,
            runs or choices.RUNS,
            passphrase_file,
            resume=resume,
            keep=keep,
            verbose=verbose,
            process=process,
        )
        report = Report(_model(file, spec) if file else None, csv_file, output, as_json)
        inputs, failures = _inputs(spec, image, images, source, depth)
        if slots and len(inputs) > 1:
            raise UsageError("--backend slots takes one input; `fheinfer accuracy` runs a plan on many in clear")
        if images or len(inputs) > 1:
            _many(job, report, inputs, failures)
        elif slots:
            _in_clear(job, report, *next(iter(inputs.items())))
        else:
            _one(job, report, *next(iter(inputs.items())))


def _inputs(
    spec: ClientSpec, image: str | None, images: list[Path] | None, source: Path | None, depth: int | None
) -> tuple[dict[str, F64], dict[str, str]]:
    """Inputs by name, as the network takes them, and why others could not be read, by name."""
    from fheinfer.cli.arrays import arrays_input
    from fheinfer.cli.inputs import image_input, images_input

    if image is not None:
        return {image: image_input(image, spec, depth)}, {}
    return (arrays_input(source, spec), {}) if source is not None else images_input(images or [], spec, depth)


def _started(threads: int | None, memory: int | None) -> EvaluatingProcess:
    from fheinfer.evaluating import EvaluatingProcess

    return EvaluatingProcess(threads=threads, memory=memory)


def _named_model(plan: Path | None, model: Path | None, plain: bool) -> Path | None:
    """The model that a named plan is compared with; it does not hold that itself."""
    if plan is None:
        return None
    if plain and model is None:
        raise UsageError("--plain compares with the model itself, which a plan does not hold; name it with --model")
    if model is not None and not plain:
        refuse("it is part of the plan", model=model)
    return model


def _model(file: Path, spec: ClientSpec) -> Model:
    from fheinfer.model.model import load

    model = load(file)
    if model.name != spec.model:
        raise UsageError(f"{file} is a model of {model.name}, and the plan is of {spec.model}; name that one's")
    return model


class _Plain:
    """Outputs of PyTorch by name, where they are asked for; computed while the other process evaluates.

    Importing PyTorch takes longer than everything else that is done here.
    """

    def __init__(
        self, model: Model | None, inputs: Mapping[str, F64], view: Callable[[Event], object] = lambda event: None
    ) -> None:
        self._model, self._inputs, self._view = model, inputs, view
        self._outputs: dict[str, Outputs] | None = None

    def before(self, view: Callable[[Event], object]) -> _Plain:
        """This, as a callback that passes events on to `view`."""
        self._view = view
        return self

    def __call__(self, event: Event) -> None:
        """Takes an event of the evaluating process."""
        self._view(event)
        if event["event"] == "ready":
            self.outputs()

    def outputs(self) -> dict[str, Outputs]:
        if self._outputs is None:
            self._outputs = {}
            if self._model is not None:
                from fheinfer.evaluation.plain import plain_values

                self._outputs = {name: plain_values(self._model, x) for name, x in self._inputs.items()}
        return self._outputs


def _one(job: Job, report: Report, image: str, x: F64) -> None:
    from fheinfer.cli.display import EvaluationView
    from fheinfer.cli.results import Taken
    from fheinfer.local import infer_run

    key_id = job.key_id()
    with job.run("infer", key_id, {image: x}) as run:
        with EvaluationView(verbose=job.verbose) as view:
            plain = _Plain(report.model, {image: x}, view)
            done = infer_run(job.plan, job.keys, job.client, x, run, on_event=plain, process=job.process)
        _deliver(job.spec, report, image, done.outputs, plain, Taken(done.seconds, done.memory, done.sizes))
        if not job.keep:
            run.finish()


def _in_clear(job: Job, report: Report, image: str, x: F64) -> None:
    from fheinfer.cli.display import EvaluationView
    from fheinfer.cli.results import Taken
    from fheinfer.compiler.plan import load
    from fheinfer.runtime.slots import slots_outputs
    from fheinfer.worker import step_event

    plan = load(job.plan)
    began = time.perf_counter()
    if job.verbose:
        with EvaluationView(verbose=True) as view:
            outputs = slots_outputs(plan, x, observer=lambda done: view(step_event(done)))
    else:
        outputs = slots_outputs(plan, x)
    taken = Taken({"slots": time.perf_counter() - began})
    _deliver(job.spec, report, image, outputs, _Plain(report.model, {image: x}), taken)


def _by_service(
    model: RemoteModel, report: Report, inputs: Mapping[str, F64], failures: Mapping[str, str], *, many: bool
) -> None:
    """Answers of a service, rounded to what tells the class: more digits could tell of the key.

    Those that are there are written and shown, too, where some failed or something ended it early.
    """
    from fheinfer.cli.display import err
    from fheinfer.cli.remote import evaluated
    from fheinfer.cli.results import Taken, require_arrays
    from fheinfer.client import decimals_of, rounded
    from fheinfer.data.files import printable
    from fheinfer.machine import peak_memory

    if report.output is not None:
        require_arrays(report.output, model.spec.outputs)
    done = evaluated(model, inputs)
    decimals = {name: decimals_of(y, model.spec) for name, y in done.outputs.items()}
    outputs = {
        name: {key: rounded(value, decimals[name]) for key, value in y.items()} for name, y in done.outputs.items()
    }
    taken = Taken(done.seconds, {"client": peak_memory()}, done.sizes)
    if many or len(inputs) > 1:
        for name, error in done.failures.items():
            err.print(f"{printable(name)}: {error}")
        failed = {**failures, **{name: str(error) for name, error in done.failures.items()}}
        if len(outputs) < len(inputs):
            err.print(f"{len(outputs)} of {len(inputs)} inputs have an answer; in arrays the others are NaN")
        _deliver_many(model.spec, report, outputs, done.each, {}, failed, taken, tuple(inputs))
        if done.error is not None:
            raise done.error
    else:
        [name] = inputs
        _deliver(model.spec, report, name, outputs[name], _Plain(None, inputs), taken, decimals[name])


def _deliver(
    spec: ClientSpec,
    report: Report,
    image: str,
    outputs: Outputs,
    compared: _Plain,
    taken: Taken,
    decimals: int | None = None,
) -> None:
    """Files first: whatever happens to standard output, the results are kept. `decimals`: to which they are rounded."""
    from fheinfer.cli import results
    from fheinfer.cli.display import print_json
    from fheinfer.data.files import printable

    plain, specs = compared.outputs().get(image), spec.outputs
    seconds = taken.seconds.get("evaluate", taken.seconds.get("slots"))
    if report.csv is not None:
        _write_csv(report.csv, [results.image_row(printable(image), outputs, specs, seconds, plain)])
    if report.output is not None:
        results.write_arrays(report.output, outputs)
    fields = results.all_fields(outputs, specs, plain)
    if report.json:
        known = {} if decimals is None else {"decimals": decimals}
        print_json({**fields, **known, "seconds": taken.seconds, "memory": taken.memory, "bytes": taken.sizes})
    else:
        results.print_results(fields, specs, taken, results.DECIMALS if decimals is None else decimals)


def _write_csv(file: Path, rows: list[dict[str, Any]]) -> None:
    from fheinfer.cli.results import rows_csv
    from fheinfer.storage import PRIVATE, atomic_write

    atomic_write(file, [rows_csv(rows).encode()], PRIVATE)


def _many(job: Job, report: Report, inputs: Mapping[str, F64], failures: Mapping[str, str]) -> None:
    from fheinfer.cli.results import Taken

    client = job.client()
    compared = _Plain(report.model, inputs)
    with evaluated(job, client, inputs, compared.before) as done:
        taken = Taken(done.seconds, done.memory)
        _deliver_many(job.spec, report, done.outputs, done.each, compared.outputs(), failures, taken)


def _deliver_many(
    spec: ClientSpec,
    report: Report,
    outputs: Mapping[str, Outputs],
    each: Mapping[str, float],
    plain: Mapping[str, Outputs],
    failures: Mapping[str, str],
    taken: Taken,
    names: Sequence[str] = (),
) -> None:
    """As `_deliver`, of many inputs.

    Args:
        each: seconds of evaluation of those that were evaluated now.
        names: of all inputs, where some have no outputs: their rows of an array are NaN, so that it keeps its order.
    """
    import numpy as np

    from fheinfer.cli import results

    specs = spec.outputs
    rows = [results.image_row(name, y, specs, each.get(name), plain.get(name)) for name, y in outputs.items()]
    if report.csv is not None:
        _write_csv(report.csv, rows)
    if report.output is not None:
        missing = {name: np.full_like(y, np.nan) for name, y in next(iter(outputs.values())).items()}
        rows_of = [outputs.get(name, missing) for name in names or outputs]
        stacked = {one.name: np.stack([y[one.name] for y in rows_of]) for one in specs}
        results.write_arrays(report.output, stacked)
    mean = taken.seconds["evaluate"] / max(1, len(each))
    results.report_images(rows, specs, failures, taken, mean, report.json)


def demo(
    set_name: Annotated[str, typer.Option("--set", metavar="S", help="Parameter set (`fheinfer sets`).")] = "turbo",
    image: Annotated[str, typer.Option("--image", metavar="FILE", help="Image file, or one in inputs/.")] = "vale.jpg",
    keys: KeysOption = None,
    threads: ThreadsOption = None,
    memory: MemoryOption = None,
) -> None:
    """Make keys where there are none, then classify an image that comes along, encrypted, and compare with PyTorch."""
    from fheinfer.cli.display import err
    from fheinfer.cli.keys import keygen
    from fheinfer.crypto.key_writer import SERVER_FOLDER
    from fheinfer.crypto.manifest import FILE_NAME

    folder = choices.keys_folder(keys, set_name)
    if not (folder / SERVER_FOLDER / FILE_NAME).exists():
        keygen(set_name=set_name, output=keys)
    torch = have("torch")
    if not torch:
        err.print("PyTorch is not installed, so nothing is compared with it")
    infer(image=image, set_name=set_name, keys=keys, plain=torch, threads=threads, memory=memory)

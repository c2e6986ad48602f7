"""The command line: arguments in, tables or JSON out. What the commands do is in the modules they call."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from fheinfer.cli import accuracy as eval_cli
from fheinfer.cli import approx as approx_cli
from fheinfer.cli import bench as bench_cli
from fheinfer.cli import images as pictures_cli
from fheinfer.cli import model as models_cli
from fheinfer.cli import plan as plan_cli
from fheinfer.cli import results
from fheinfer.cli import search as search_cli
from fheinfer.cli import server as server_cli
from fheinfer.cli.display import (
    EvaluationView,
    byte_bar,
    err,
    out,
    print_error,
    print_json,
    size,
    table,
)
from fheinfer.cli.plan import JsonOption, PolicyOption, SetOption, WeightsOption, plan_for, set_folder
from fheinfer.compiler.pipeline import compile
from fheinfer.compiler.plan import Plan
from fheinfer.crypto.params import parameter_set
from fheinfer.storage import atomic_write, require_writable
from fheinfer.data.images import load_image, normalise
from fheinfer.data.resources import default_weights
from fheinfer.errors import FheinferError, InputError, NotEnoughMemoryError, UsageError
from fheinfer.frontends import zoo
from fheinfer.local import Inference, infer_encrypted, run_folder
from fheinfer.model.model import Weights
from fheinfer.model.model import load as load_weights

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A neural network looks at a picture that it never sees.",
)
app.command(name="sets")(plan_cli.sets)
app.command(name="plan")(plan_cli.plan)
app.command(name="evaluate")(server_cli.evaluate)
app.command(name="train")(models_cli.train)
app.command(name="eval")(eval_cli.evaluate)
app.command(name="search")(search_cli.search)
app.command(name="finetune")(models_cli.finetune)
app.command(name="calibrate")(models_cli.calibrate)
app.command(name="bench")(bench_cli.bench)
app.add_typer(models_cli.weights_app, name="weights")
app.add_typer(approx_cli.approx_app, name="approx")

KeysOption = Annotated[Path, typer.Option("--keys", help="Folder of all keys; a set has its own folder in it.")]
ImageOption = Annotated[str, typer.Option("--image", help="A picture file, or the name of one in inputs/.")]
KEYS = Path("keys")


@app.command()
def keygen(
    set_name: SetOption = "1",
    policy: PolicyOption = "auto",
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of all keys; a set has its own in it.")] = KEYS,
    network: Annotated[str | None, typer.Option(help=f"Network the keys serve: {', '.join(zoo.names())}.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace keys that are there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make the secret key, and the keys the server needs."""
    from fheinfer.crypto.keygen import keygen as make

    began = time.perf_counter()
    with byte_bar("making keys") as progress:
        manifest = make(set_name, output, network=network, policy=policy, force=force, progress=progress)
    folder, seconds = output / manifest.set_name, time.perf_counter() - began
    groups: dict[str, list[int]] = {}
    for name, entry in manifest.files.items():
        groups.setdefault("rotation keys" if name.startswith("rotation") else name.removesuffix(".key"), []).append(
            entry.bytes
        )
    if as_json:
        print_json(
            {
                "folder": str(folder),
                "policy": manifest.policy,
                "seconds": seconds,
                "bytes": manifest.total_bytes,
                "key_id": manifest.key_id,
                "files": {name: entry.bytes for name, entry in manifest.files.items()},
            }
        )
        return
    table(
        f"{manifest.policy} keys of set {set_name} for {manifest.network}",
        ["key", "files", "size"],
        [[name, len(sizes), size(sum(sizes))] for name, sizes in groups.items()]
        + [["all", len(manifest.files), size(manifest.total_bytes)]],
    )
    out.print(f"{folder}/secret stays with you; {folder}/server is for the server. {seconds:.0f} s")


@app.command()
def encrypt(
    image: ImageOption,
    output: Annotated[Path, typer.Option("--output", "-o")],
    set_name: SetOption = "1",
    keys: KeysOption = KEYS,
    weights: WeightsOption = None,
) -> None:
    """Client: encrypt a picture."""
    from fheinfer.client import Client

    _, trained = _weights(weights, set_name)
    _, picture = _picture(image, trained)
    made = compile(trained, set_name)
    data = Client(set_folder(keys, set_name)).encrypt(picture, made.client)
    atomic_write(output, [data])
    err.print(f"{output}: {size(len(data))}")


@app.command()
def decrypt(
    result: Annotated[Path, typer.Argument(help="What `fheinfer evaluate` wrote.")],
    set_name: SetOption = "1",
    keys: KeysOption = KEYS,
    as_json: JsonOption = False,
) -> None:
    """Client: decrypt a result."""
    from fheinfer.client import Client

    client = Client(set_folder(keys, set_name))
    logits = client.decrypt(server_cli.read_input(result, client.params))
    _report(logits, None, Inference(logits), as_json)


@app.command()
def infer(
    image: Annotated[str | None, typer.Option("--image", help="A picture file, or the name of one in inputs/.")] = None,
    images: Annotated[list[Path] | None, typer.Option("--images", help="A folder of pictures, or one; repeat.")] = None,
    set_name: SetOption = "1",
    keys: KeysOption = KEYS,
    weights: WeightsOption = None,
    backend: Annotated[str, typer.Option(help="native: ours; openfhe: the reference; slots: in clear.")] = "native",
    plain: Annotated[bool, typer.Option("--plain", help="Compare with PyTorch on the clear picture.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last finished block.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the ciphertexts of this run.")] = False,
    runs: Annotated[Path, typer.Option(help="Folder for runs that can be resumed.")] = Path("runs"),
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="A line for every layer.")] = False,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Class and logits of every one of --images.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Encrypt a picture, or many, evaluate in a process without the secret, decrypt the results."""
    if (image is None) == (not images):
        raise UsageError("give one picture by --image, or a folder of them by --images")
    if csv_file:
        require_writable(csv_file)
    if backend not in ("native", "openfhe", "slots"):
        raise UsageError(f"no backend {backend!r}; there are native, openfhe and slots")
    if backend == "openfhe" and not set_name.endswith("-openfhe"):
        set_name += "-openfhe"  # a set of its own: OpenFHE's bootstrap needs another chain and other keys
    path, trained = _weights(weights, set_name)
    if image is None:
        if backend == "slots":
            raise UsageError("--backend slots takes one picture; `fheinfer eval` runs the plan on many in clear")
        folder = set_folder(keys, set_name)
        made = plan_for(folder, trained, set_name)
        many = pictures_cli.load_all(images or [], trained.graph.picture_side)
        found = pictures_cli.evaluated(made, many, trained, path, folder, runs, resume=resume, keep=keep)
        normal = {name: normalise(p, trained.mean, trained.std) for name, p in many.items()} if plain else {}
        pictures_cli.report(found, {name: _plain(trained, x) for name, x in normal.items()}, csv_file, as_json)
        return
    pixels, picture = _picture(image, trained)
    if backend == "slots":
        from fheinfer.runtime.slots import run_slots

        began = time.perf_counter()
        logits = run_slots(compile(trained, set_name), picture)
        done = Inference(logits, seconds={"slots": time.perf_counter() - began})
    else:
        folder = set_folder(keys, set_name)
        made = plan_for(folder, trained, set_name)
        done = _encrypted(made, path, pixels, picture, folder, runs, resume=resume, keep=keep, verbose=verbose)
    _report(done.logits, _plain(trained, picture) if plain else None, done, as_json)


@app.command()
def demo(
    set_name: SetOption = "turbo",
    image: ImageOption = "vale.jpg",
    keys: KeysOption = KEYS,
) -> None:
    """The first run: makes keys where there are none, then `fheinfer infer --plain` on a picture that comes along."""
    if not (set_folder(keys, set_name) / "server" / "manifest.json").exists():
        keygen(set_name=set_name, output=keys)
    infer(image=image, set_name=set_name, keys=keys, plain=True)


@app.command()
def precision(
    image: ImageOption,
    set_name: SetOption = "1",
    keys: KeysOption = KEYS,
    weights: WeightsOption = None,
    output: Annotated[Path, typer.Option("--plot", help="Where the plot goes.")] = Path("precision.png"),
    runs: Annotated[Path, typer.Option(help="Folder for runs that can be resumed.")] = Path("runs"),
    verbose: Annotated[bool, typer.Option("-v", "--verbose")] = False,
    as_json: JsonOption = False,
) -> None:
    """Every layer of an encrypted run against the same plan on slots and against PyTorch."""
    from fheinfer.client import Client
    from fheinfer.evaluation.plain import plain_layers
    from fheinfer.evaluation.precision import compare, plot
    from fheinfer.runtime.slots import run_slots

    if output.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UsageError(f"{output}: no plot of that kind; name a .png, .svg or .pdf")
    require_writable(output)
    path, trained = _weights(weights, set_name)
    pixels, picture = _picture(image, trained)
    folder = set_folder(keys, set_name)
    made = plan_for(folder, trained, set_name)
    exact = plain_layers(trained, picture)
    slots: dict[str, NDArray[np.float64]] = {}
    run_slots(made, picture, layers=slots)
    client = Client(folder)
    run = run_folder(runs, made, pixels, client.key_id)
    run = run.with_name(f"precision-{run.name}")  # an interrupted `infer` keeps its own
    with EvaluationView([step.seconds for step in made.steps], verbose=verbose) as view:
        infer_encrypted(made, picture, folder, path, run, keep_layers=True, on_event=view)
    rows = compare(made, client, run, slots, exact)
    shutil.rmtree(run)
    plot(rows, output, f"{made.network}, set {set_name}, {image}")
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    table(
        f"{made.network} on set {set_name}: bits kept",
        ["step", "op", "level", "seconds", "largest", "slots min", "slots median", "torch min", "torch median"],
        [
            [
                r.step,
                r.op,
                r.level,
                f"{r.seconds:.2f}",
                f"{r.largest:.3g}",
                *(
                    "-" if b is None else f"{b:.1f}"
                    for b in (r.slots_minimum, r.slots_median, r.torch_minimum, r.torch_median)
                ),
            ]
            for r in rows
        ],
        left=2,
    )
    out.print(f"plot: {output}")


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Where context.bin, public.bin and the rest go.")],
    set_name: SetOption = "1",
    keys: KeysOption = KEYS,
    ciphertext: Annotated[list[Path] | None, typer.Option(help="Ciphertexts to export too.")] = None,
    secret: Annotated[bool, typer.Option("--secret", help="Also the secret key.")] = False,
) -> None:
    """Context, public key and ciphertexts in OpenFHE's own binary form."""
    from fheinfer.crypto.export import export_openfhe

    for path in export_openfhe(set_folder(keys, set_name), folder, ciphertext or [], secret=secret):
        out.print(str(path))


def _weights(path: Path | None, set_name: str) -> tuple[Path, Weights]:
    path = path or default_weights(parameter_set(set_name).network)
    return path, load_weights(path)


def _picture(image: str, weights: Weights) -> tuple[Any, Any]:
    pixels = load_image(image, weights.graph.picture_side)
    return pixels, normalise(pixels, weights.mean, weights.std)


def _plain(weights: Weights, picture: Any) -> Any:
    from fheinfer.evaluation.plain import plain_logits

    return plain_logits(weights, picture)


def _encrypted(
    made: Plan,
    path: Path,
    pixels: Any,
    picture: Any,
    folder: Path,
    runs: Path,
    *,
    resume: bool,
    keep: bool,
    verbose: bool,
) -> Inference:
    from fheinfer.crypto.keystore import Manifest

    run = run_folder(runs, made, pixels, Manifest.load(folder / "server" / "manifest.json").key_id)
    if resume and not run.exists():
        raise InputError(f"nothing to resume: no run of this picture, set and weights in {runs}; leave out --resume")
    with EvaluationView([step.seconds for step in made.steps], verbose=verbose) as view:
        done = infer_encrypted(made, picture, folder, path, run, resume=resume, on_event=view)
    if not keep:
        shutil.rmtree(run)
    return done


def _report(logits: Any, plain: Any, done: Inference, as_json: bool) -> None:
    classes = results.class_names(logits)
    fields = results.result_fields(logits, classes, plain)
    if as_json:
        print_json({**fields, "seconds": done.seconds, "memory": done.memory, "bytes": done.sizes})
    else:
        results.print_result(fields, classes, done)


def main() -> None:
    """Entry point: runs a command; our errors become one line and their exit code, Ctrl-C becomes 130."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        app(standalone_mode=True)
    except FheinferError as error:
        _fail(str(error), error.exit_code)
    except MemoryError:
        _fail("out of memory; close other programs or choose a smaller set", NotEnoughMemoryError.exit_code)
    except SystemExit as stop:
        if stop.code != 130:  # what typer makes of Ctrl-C
            raise
        _fail("stopped; `fheinfer infer --resume` and `fheinfer train --resume` go on from where they were", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def _fail(message: str, code: int) -> None:
    print_error(message)
    sys.exit(code)


if __name__ == "__main__":
    main()

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

import typer

from fheinfer import console, server_cli
from fheinfer.compiler import compile
from fheinfer.compiler.plan import Plan
from fheinfer.console import EvaluationView, err, out, print_json, size, table
from fheinfer.errors import FheinferError, InputError, NotEnoughMemoryError, UsageError
from fheinfer.frontends import zoo
from fheinfer.inference import Inference, infer_encrypted, run_folder
from fheinfer.params import MAX_LOG_QP, parameter_set, parameter_sets
from fheinfer.preprocess import CLASSES, load_image, normalise
from fheinfer.resources import default_weights
from fheinfer.storage import atomic_write
from fheinfer.weights import Weights, import_file
from fheinfer.weights import load as load_weights

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  help="A neural network looks at a picture that it never sees.")
weights_app = typer.Typer(no_args_is_help=True, help="Trained weights: import and show.")
app.add_typer(weights_app, name="weights")
app.command(name="evaluate")(server_cli.evaluate)

SetOption = Annotated[str, typer.Option("--set", help="Parameter set: 1, 2, 3 or 4 (`fheinfer sets`).")]
KeysOption = Annotated[Path, typer.Option("--keys", help="Folder of all keys; a set has its own folder in it.")]
WeightsOption = Annotated[Path | None, typer.Option("--weights", help="Weights (.safetensors); ours by default.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
ImageOption = Annotated[str, typer.Option("--image", help="A picture file, or the name of one in inputs/.")]
KEYS = Path("keys")


@app.command()
def sets(as_json: JsonOption = False) -> None:
    """Parameter sets: what each gives and costs, and what its security rests on."""
    from fheinfer import _core
    from fheinfer.keygen import manifest_plan

    rows = []
    for params in parameter_sets():
        context, plan = _core.Context(params.core()), manifest_plan("resnet20", params)
        rows.append({
            "set": params.name, "N": f"2^{params.log_n}", "slots": params.slots, "relu_degree": params.relu_degree,
            "digits": params.digits, "budgets": f"{params.cts_budget},{params.stc_budget}", "limbs": len(context.q),
            "specials": len(context.p), "prime_bits": f"{params.first_bits}/{params.scale_bits}", "log_qp": context.log_qp,
            "levels": params.levels, "key_bytes": plan.prediction.key_bytes, "memory": plan.prediction.peak_memory,
            "seconds": plan.prediction.seconds})
    if as_json:
        print_json(rows)
        return
    table("parameter sets (ResNet20; keys, memory and time predicted)",
          ["set", "N", "slots", "ReLU degree", "digits", "CtS,StC", "limbs + P", "q0/q bits", "log2 QP", "levels", "keys", "memory", "time"],
          [[r["set"], r["N"], r["slots"], r["relu_degree"], r["digits"], r["budgets"], f"{r['limbs']} + {r['specials']}",
            r["prime_bits"], r["log_qp"], r["levels"], size(r["key_bytes"]), size(r["memory"]), f"{r['seconds']:.0f} s"] for r in rows])
    out.print(f"Security: 128 bits for every set. log2(QP) stays below {MAX_LOG_QP[16]}, what the HomomorphicEncryption.org tables\n"
              "(as in OpenFHE's HEStd_128_classic) allow at N = 2^16 for a ternary secret; the main secret is dense ternary.\n"
              "Bootstrapping switches to an ephemeral secret of weight 32, only modulo q_0 and one special prime (ePrint 2022/024).")


@app.command()
def plan(set_name: SetOption = "1", weights: WeightsOption = None, network: Annotated[str | None, typer.Option(
        help="Plan a network of the zoo without weights.")] = None, as_json: JsonOption = False) -> None:
    """What a run will do and take, before anything runs."""
    from fheinfer.keygen import manifest_plan

    made = manifest_plan(network, parameter_set(set_name)) if network else compile(_weights(weights)[1], set_name)
    prediction = asdict(made.prediction)
    if as_json:
        print_json({"network": made.network, "set": made.params.name, "bootstraps": made.bootstraps, "prediction": prediction,
                    "rotations": dict(made.rotations), "client": asdict(made.client),
                    "steps": [{"name": s.name, "op": s.op, "inputs": s.inputs, "level": s.level, "scale": s.scale,
                               "layout": repr(s.layout), "seconds": s.seconds} for s in made.steps]})
        return
    table(f"{made.network} on set {made.params.name}", ["step", "operation", "layout", "level", "scale", "predicted s"],
          [[s.name, s.op, repr(s.layout), s.level, f"{s.scale:.3g}", f"{s.seconds:.2f}"] for s in made.steps], left=3)
    out.print(f"{made.bootstraps} bootstraps, {len(made.rotations)} rotation keys; input level {made.client.input_level}")
    out.print(f"predicted: {made.prediction.seconds:.0f} s, " + ", ".join(
        f"{key.replace('_', ' ')} {size(prediction[key])}" for key in ("key_bytes", "table_bytes", "peak_memory", "input_bytes", "output_bytes")))


@app.command()
def keygen(set_name: SetOption = "1", keys: KeysOption = KEYS,
           network: Annotated[str, typer.Option(help=f"Network the keys must serve: {', '.join(zoo.names())}.")] = "resnet20",
           force: Annotated[bool, typer.Option("--force", help="Replace keys that are there.")] = False,
           as_json: JsonOption = False) -> None:
    """Make the secret key, and the keys the server needs."""
    from fheinfer.keygen import keygen as make

    began = time.perf_counter()
    with console.byte_bar("making keys") as progress:
        manifest = make(set_name, keys, network=network, force=force, progress=progress)
    folder, seconds = keys / manifest.set_name, time.perf_counter() - began
    groups: dict[str, list[int]] = {}
    for name, entry in manifest.files.items():
        groups.setdefault("rotation keys" if name.startswith("rotation") else name.removesuffix(".key"), []).append(entry.bytes)
    if as_json:
        print_json({"folder": str(folder), "seconds": seconds, "bytes": manifest.total_bytes, "key_id": manifest.key_id,
                    "files": {name: entry.bytes for name, entry in manifest.files.items()}})
        return
    table(f"keys of set {set_name} for {network}", ["key", "files", "size"],
          [[name, len(sizes), size(sum(sizes))] for name, sizes in groups.items()]
          + [["all", len(manifest.files), size(manifest.total_bytes)]])
    out.print(f"{folder}/secret stays with you; {folder}/server is for the server. {seconds:.0f} s")


@app.command()
def encrypt(image: ImageOption, output: Annotated[Path, typer.Option("--output", "-o")], set_name: SetOption = "1",
            keys: KeysOption = KEYS, weights: WeightsOption = None) -> None:
    """Client: encrypt a picture."""
    from fheinfer.client import Client

    _, trained = _weights(weights)
    _, picture = _picture(image, trained)
    made = compile(trained, set_name)
    data = Client(_set_folder(keys, set_name)).encrypt(picture, made.client)
    atomic_write(output, [data])
    err.print(f"{output}: {size(len(data))}")


@app.command()
def decrypt(result: Annotated[Path, typer.Argument(help="What `fheinfer evaluate` wrote.")], set_name: SetOption = "1",
            keys: KeysOption = KEYS, as_json: JsonOption = False) -> None:
    """Client: decrypt a result."""
    from fheinfer.client import Client

    client = Client(_set_folder(keys, set_name))
    logits = client.decrypt(server_cli.read_input(result, client.params))
    _report(logits, None, Inference(logits), as_json)


@app.command()
def infer(image: ImageOption, set_name: SetOption = "1", keys: KeysOption = KEYS, weights: WeightsOption = None,
          backend: Annotated[str, typer.Option(help="openfhe: encrypted; slots: the same plan in clear.")] = "openfhe",
          plain: Annotated[bool, typer.Option("--plain", help="Compare with PyTorch on the clear picture.")] = False,
          resume: Annotated[bool, typer.Option("--resume", help="Go on from the last finished block.")] = False,
          keep: Annotated[bool, typer.Option("--keep", help="Keep the ciphertexts of this run.")] = False,
          runs: Annotated[Path, typer.Option(help="Folder for runs that can be resumed.")] = Path("runs"),
          verbose: Annotated[bool, typer.Option("-v", "--verbose", help="A line for every layer.")] = False,
          as_json: JsonOption = False) -> None:
    """Encrypt a picture, evaluate it in a process without the secret, decrypt the result."""
    if backend not in ("openfhe", "slots"):
        raise UsageError(f"no backend {backend!r}; there are openfhe and slots")
    path, trained = _weights(weights)
    pixels, picture = _picture(image, trained)
    made = compile(trained, set_name)
    if backend == "slots":
        from fheinfer.runtime.slots import run_slots

        began = time.perf_counter()
        logits = run_slots(made, picture)
        done = Inference(logits, seconds={"slots": time.perf_counter() - began})
    else:
        done = _encrypted(made, path, pixels, picture, _set_folder(keys, set_name), runs, resume=resume, keep=keep, verbose=verbose)
    _report(done.logits, _plain(trained, picture) if plain else None, done, as_json)


@app.command()
def precision(image: ImageOption, set_name: SetOption = "1", keys: KeysOption = KEYS, weights: WeightsOption = None,
              output: Annotated[Path, typer.Option("--plot", help="Where the plot goes.")] = Path("precision.png"),
              runs: Annotated[Path, typer.Option(help="Folder for runs that can be resumed.")] = Path("runs"),
              verbose: Annotated[bool, typer.Option("-v", "--verbose")] = False, as_json: JsonOption = False) -> None:
    """Every layer of an encrypted run against the same plan on slots and against PyTorch."""
    from fheinfer.client import Client
    from fheinfer.plain import plain_layers
    from fheinfer.precision import compare, plot
    from fheinfer.runtime.slots import run_slots

    path, trained = _weights(weights)
    pixels, picture = _picture(image, trained)
    made, folder = compile(trained, set_name), _set_folder(keys, set_name)
    exact, slots = plain_layers(trained, picture), {}
    run_slots(made, picture, layers=slots)
    client = Client(folder)
    run = run_folder(runs, made, pixels, client.key_id)
    with EvaluationView(made, verbose=verbose) as view:
        infer_encrypted(made, picture, folder, path, run, keep_layers=True, on_event=view)
    rows = compare(made, client, run, slots, exact)
    shutil.rmtree(run)
    plot(rows, output, f"{made.network}, set {set_name}, {image}")
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    table(f"{made.network} on set {set_name}: bits kept", ["step", "op", "level", "seconds", "largest", "slots min", "slots median",
                                                           "torch min", "torch median"],
          [[r.step, r.op, r.level, f"{r.seconds:.2f}", f"{r.largest:.3g}", *(
              "-" if b is None else f"{b:.1f}" for b in (r.slots_minimum, r.slots_median, r.torch_minimum, r.torch_median))] for r in rows],
          left=2)
    out.print(f"plot: {output}")


@app.command()
def export(folder: Annotated[Path, typer.Argument(help="Where context.bin, public.bin and the rest go.")], set_name: SetOption = "1",
           keys: KeysOption = KEYS, ciphertext: Annotated[list[Path] | None, typer.Option(help="Ciphertexts to export too.")] = None,
           secret: Annotated[bool, typer.Option("--secret", help="Also the secret key.")] = False) -> None:
    """Context, public key and ciphertexts in OpenFHE's own binary form."""
    from fheinfer.export import export_openfhe

    for path in export_openfhe(_set_folder(keys, set_name), folder, ciphertext or [], secret=secret):
        out.print(str(path))


@app.command()
def train(output: Annotated[Path, typer.Option("--output", "-o")] = Path("weights/resnet20.safetensors"),
          network: Annotated[str, typer.Option(help=f"One of {', '.join(zoo.names())}.")] = "resnet20",
          data: Annotated[Path | None, typer.Option(help="Folder of CIFAR-10 sheets; default $FHEINFER_DATA.")] = None,
          epochs: Annotated[int | None, typer.Option()] = None, lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
          seed: Annotated[int | None, typer.Option()] = None,
          resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint of an interrupted run.")] = False) -> None:
    """Train a network on CIFAR-10; writes weights and a model card."""
    try:
        from fheinfer.train.console import progress_bar
        from fheinfer.train.loop import train as run
        from fheinfer.train.recipe import Recipe
    except ModuleNotFoundError as error:
        raise UsageError("training needs PyTorch: pip install 'fheinfer[train]'") from error
    chosen = {k: v for k, v in {"epochs": epochs, "peak_lr": lr, "seed": seed}.items() if v is not None}
    with progress_bar() as observe:
        run(network, output, data, Recipe(**chosen), resume, observe)  # type: ignore[arg-type]
    out.print(f"{output} and {output.with_suffix('.md')}")


@weights_app.command("import")
def weights_import(file: Annotated[Path, typer.Argument(help=".pt, .th, .npz or .safetensors.")],
                   output: Annotated[Path, typer.Option("--output", "-o")],
                   network: Annotated[str, typer.Option()] = "resnet20",
                   data: Annotated[Path | None, typer.Option(help="CIFAR-10 sheets, to measure the activation ranges.")] = None,
                   accuracy: Annotated[bool, typer.Option("--accuracy", help="Also measure accuracy on the test images.")] = False) -> None:
    """Read somebody's weights and write them in our form."""
    weights = import_file(file, network, data=data)
    weights.save(output)
    out.print(f"{output}: {weights.network}, {len(weights.arrays)} tensors, identity {weights.identity[:16]}")
    if not weights.ranges:
        out.print("no activation ranges: give --data FOLDER before encrypting with them")
    if accuracy:
        from fheinfer.train import data as dataset
        from fheinfer.train.evaluate import accuracy as measure
        from fheinfer.train.module import from_weights

        top1 = measure(from_weights(weights), dataset.load(dataset.folder(data), "test"), weights.mean, weights.std)
        out.print(f"accuracy on the test images: {100 * top1:.2f} %")


@weights_app.command("show")
def weights_show(file: Annotated[Path | None, typer.Argument()] = None, as_json: JsonOption = False) -> None:
    """What a weights file holds."""
    path, weights = _weights(file)
    if as_json:
        print_json({"file": str(path), "network": weights.network, "identity": weights.identity, "mean": weights.mean, "std": weights.std,
                    "ranges": dict(weights.ranges), "provenance": dict(weights.provenance)})
        return
    table(str(path), ["activation", "largest input"], [[name, f"{bound:.2f}"] for name, bound in weights.ranges.items()])
    out.print(f"{weights.network}, {sum(a.size for a in weights.arrays.values())} numbers, mean {weights.mean}, std {weights.std}")


def _weights(path: Path | None) -> tuple[Path, Weights]:
    path = path or default_weights()
    return path, load_weights(path)


def _picture(image: str, weights: Weights) -> tuple[Any, Any]:
    pixels = load_image(image, weights.graph.input.attrs["shape"][1])
    return pixels, normalise(pixels, weights.mean, weights.std)


def _set_folder(keys: Path, set_name: str) -> Path:
    return keys / f"set{parameter_set(set_name).name}"


def _plain(weights: Weights, picture: Any) -> Any:
    from fheinfer.plain import plain_logits

    return plain_logits(weights, picture)


def _encrypted(made: Plan, path: Path, pixels: Any, picture: Any, folder: Path, runs: Path, *, resume: bool, keep: bool,
               verbose: bool) -> Inference:
    from fheinfer.keystore import Manifest

    run = run_folder(runs, made, pixels, Manifest.load(folder / "server" / "manifest.json").key_id)
    if resume and not run.exists():
        raise InputError(f"nothing to resume: no run of this picture, set and weights in {runs}; leave out --resume")
    with EvaluationView(made, verbose=verbose) as view:
        done = infer_encrypted(made, picture, folder, path, run, resume=resume, on_event=view)
    if not keep:
        shutil.rmtree(run)
    return done


def _report(logits: Any, plain: Any, done: Inference, as_json: bool) -> None:
    classes = CLASSES if len(logits) == len(CLASSES) else tuple(str(i) for i in range(len(logits)))
    fields = console.result_fields(logits, classes, plain)
    if as_json:
        print_json({**fields, "seconds": done.seconds, "memory": done.memory, "bytes": done.sizes})
    else:
        console.print_result(fields, classes, done)


def main() -> None:
    """Entry point: runs a command; our errors become one line and their exit code, Ctrl-C becomes 130."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        app(standalone_mode=True)
    except FheinferError as error:
        _fail(str(error), error.exit_code)
    except MemoryError:
        _fail("out of memory; close other programs or choose a smaller set", NotEnoughMemoryError.exit_code)
    except KeyboardInterrupt:
        _fail("stopped; `fheinfer infer --resume` and `fheinfer train --resume` go on from where they were", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def _fail(message: str, code: int) -> None:
    err.print(f"error: {message}", markup=False)
    sys.exit(code)


if __name__ == "__main__":
    main()

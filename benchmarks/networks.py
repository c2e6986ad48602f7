"""Networks of users measured encrypted, beside what was predicted: docs/benchmarks, "Networks of users".

    python -m benchmarks.networks                  # from the checkout: lists the names
    python -m benchmarks.networks lola heir-lenet --inputs 20
    python -m benchmarks.networks all --json networks.json

Every network is imported, calibrated, compiled and given keys; then the evaluating process loads the keys and takes the
inputs one after the other. Its first evaluation is a warm-up, the others count.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import fheinfer as fi
from benchmarks.subjects import CASES, Case, Subject, of_model
from fheinfer.compiler.plan import Plan
from fheinfer.crypto.key_policy import KeyPolicy
from fheinfer.errors import FheinferError
from fheinfer.evaluating import EvaluatingProcess
from fheinfer.model.model import load
from fheinfer.speed import machine_speed, scale_seconds

PUBLIC_DATA = Path(os.environ.get("FHEINFER_PUBLIC_DATA", Path(__file__).parents[2] / "shared" / "data"))


@dataclass(frozen=True)
class Row:
    """What was measured of a network; seconds of one evaluation, sizes in bytes.

    predicted, predicted_memory  what the plan says, on this machine
    seconds                      median of the evaluations after the first
    load                         of the machine when they began: programs that wanted to run
    bits                         of the worst output against the network in clear: median of the inputs, and least
    same_class                   inputs that get the class that they get in clear
    """

    name: str
    set: str
    activation: str
    bootstraps: int
    compile_seconds: float
    predicted: float
    seconds: float
    first_seconds: float
    most_seconds: float
    predicted_memory: int
    memory: int
    most_memory: float
    key_bytes: int
    keygen_seconds: float
    load_seconds: float
    threads: int
    load: float
    bits: float
    least_bits: float
    same_class: int
    inputs: int

    @property
    def text(self) -> str:
        """A row of the table."""
        cells = [
            CASES[self.name].title,
            self.set,
            f"{self.predicted:.3g}",
            f"{self.seconds:.3g} of {self.most_seconds:g}",
            f"{self.memory / 1e9:.2f} of {self.most_memory / 1e9:g} GB",
            f"{self.key_bytes / 1e9:.2g} GB",
            f"{self.bits:.1f}",
            f"{self.same_class} of {self.inputs}",
        ]
        return f"| {' | '.join(cells)} |"


HEADER = (
    "| network | set | predicted s | measured s, at most | server memory, at most | keys | bits | class agrees |\n"
    "|---|---|---|---|---|---|---|---|"
)


def measure(name: str, case: Case, subject: Subject, inputs: int, policy: KeyPolicy, options: dict[str, Any]) -> Row:
    """Measures one network on the first of its inputs.

    Args:
        policy: of the rotation keys.
        options: of `fheinfer.compile`.
    """
    began = time.perf_counter()
    plan = fi.compile(subject.model, **options)
    compiled = time.perf_counter() - began
    say(f"{plan}")
    x = subject.inputs[:inputs]
    clear = subject.reference(x)
    with tempfile.TemporaryDirectory(prefix="fheinfer-networks-") as folder:
        logits, numbers = _encrypted(plan, x, policy, Path(folder))
    bits = -np.log2(np.abs(logits - clear).max(1) / np.abs(clear).max(1))
    needs = plan.client.keys[policy]
    return Row(
        name=name,
        set=plan.params.name,
        activation=plan.activation if any(step.activation for step in plan.steps) else "",
        bootstraps=plan.bootstraps,
        compile_seconds=compiled,
        predicted=scale_seconds(needs.seconds),
        most_seconds=case.seconds,
        predicted_memory=needs.peak_memory,
        most_memory=case.memory,
        threads=machine_speed().threads,
        bits=float(np.median(bits)),
        least_bits=float(bits.min()),
        same_class=int((logits.argmax(1) == clear.argmax(1)).sum()),
        inputs=len(x),
        **numbers,
    )


def _encrypted(plan: Plan, x: Any, policy: KeyPolicy, folder: Path) -> tuple[Any, dict[str, Any]]:
    """(Decrypted outputs, what was measured)."""
    plan.save(folder / "plan")
    began = time.perf_counter()
    manifest = fi.keygen(plan.client, folder / "keys", policy=policy)
    keygen_seconds = time.perf_counter() - began
    client = fi.Client(folder / "keys", plan.client)
    with EvaluatingProcess() as process:
        process.load(folder / "plan", folder / "keys" / "server")
        files = [folder / f"{index}.ct" for index in range(len(x))]
        for file, one in zip(files, x, strict=True):
            file.write_bytes(client.encrypt(one))
        results = [file.with_suffix(".result") for file in files]
        first = process.evaluate(files[:1], results[:1])[0]
        load_average = os.getloadavg()[0]
        again = [process.evaluate([i], [o])[0] for i, o in zip(files, results, strict=True)]
        process.finish()
    return np.stack([client.decrypt(file.read_bytes()) for file in results]), {
        "seconds": statistics.median(again),
        "first_seconds": first,
        "memory": process.memory,
        "key_bytes": manifest.total_bytes,
        "keygen_seconds": keygen_seconds,
        "load_seconds": process.load_seconds,
        "load": load_average,
    }


def say(text: str) -> None:
    """A line about what is going on; the table alone is on standard output."""
    sys.stderr.write(f"{text}\n")


def main(arguments: list[str] | None = None) -> None:
    """Measures the networks that the command line names, and prints a row for each."""
    asked = _parse(arguments)
    if not asked.names:
        for name, case in CASES.items():
            print(f"{name:14} {case.title}: {case.seconds:g} s, {case.memory / 1e9:g} GB")
        return
    options = {"set": asked.set, "bits": asked.bits, "activation": asked.act}
    given = {name: value for name, value in options.items() if value is not None}
    rows: list[Row] = []
    print(HEADER)
    for name in CASES if "all" in asked.names else asked.names:
        case = CASES[name]
        say(f"{name}: importing and calibrating")
        subject = of_model(load(asked.model), asked.data) if asked.model else case.make(asked.data)
        defaults = {k: v for k, v in case.options.items() if not {"bits", "activation"} & given.keys()}
        rows.append(measure(name, case, subject, asked.inputs, asked.keys, {**defaults, **given}))
        print(rows[-1].text, flush=True)
        if asked.json:  # after each: the next may take the machine's memory
            asked.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.networks", description=(__doc__ or "").split(":")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="of networks, or all; without any they are listed")
    parser.add_argument("--inputs", type=int, default=1, metavar="N", help="evaluate the first N test inputs")
    parser.add_argument("--set", help="a parameter set instead of auto")
    parser.add_argument("--bits", type=float, help="that outputs keep")
    parser.add_argument("--act", help="what approximates a ReLU")
    parser.add_argument("--keys", choices=("fast", "minimal"), default="fast", help="policy of the rotation keys")
    parser.add_argument("--model", type=Path, help="a model file for the one network named, on images of CIFAR-10")
    parser.add_argument("--data", type=Path, default=PUBLIC_DATA, help="folder with cifar10/ and models/")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was measured")
    asked = parser.parse_args(arguments)
    for name in asked.names:
        if name != "all" and name not in CASES:
            parser.error(f"no network {name!r}; there are {', '.join(CASES)} and all")
    if asked.model and (len(asked.names) != 1 or asked.names == ["all"]):
        parser.error("--model is for one network: name it")
    if asked.inputs < 1:
        parser.error(f"--inputs {asked.inputs}: evaluate one at least")
    return asked


if __name__ == "__main__":
    try:
        main()
    except FheinferError as error:
        sys.exit(f"error: {error}")

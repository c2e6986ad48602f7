"""A service under load: many clients with keys of their own, requests in random order, and a server that is killed.

    python -m benchmarks.service                                # 20 clients, 200 requests, set turbo
    python -m benchmarks.service --kills 3 --json load.json     # the same, the server killed and restarted three times
    python -m benchmarks.service --overhead 10                  # what a request takes beside its evaluation

Every request has an input of its own, so that an answer that belongs to another request does not pass for its own: it
is compared with the network in clear. Files of the run are in a temporary folder (--folder), 0.6 GB a client of turbo.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

import fheinfer as fi
from fheinfer.cli.choices import model_file, plan_folder
from fheinfer.compiler.plan import load as load_plan
from fheinfer.crypto.key_writer import SERVER_FOLDER
from fheinfer.errors import FheinferError, UnreachableError
from fheinfer.evaluating import EvaluatingProcess
from fheinfer.model.model import Model
from fheinfer.model.model import load as load_model
from fheinfer.storage import atomic_write

LEAST_BITS = 4.0
"""An answer that agrees to less with the network in clear is another request's, or noise."""
PATIENCE = 120.0
"""Seconds that a client waits for a server that is away."""


@dataclass
class Answer:
    """One request: who asked, when it was accepted, started and answered, and how near the answer was."""

    client: int
    accepted: float = 0.0
    started: float = 0.0
    finished: float = 0.0
    bits: float = float("-inf")
    same_class: bool = False
    error: str = ""


@dataclass
class Load:
    """What was measured; seconds, bytes.

    waits   by client: mean of the seconds from being accepted to being started
    fair    the largest of them over the smallest
    """

    set: str
    clients: int
    requests: int
    kills: int
    prepare_seconds: float = 0.0
    seconds: float = 0.0
    lost: int = 0
    wrong: int = 0
    least_bits: float = 0.0
    waits: list[float] = field(default_factory=list)
    fair: float = 0.0
    memory: int = 0
    load: float = 0.0
    errors: list[str] = field(default_factory=list)


class Service:
    """`fheinfer serve` as a process of its own, which can be killed and started again on the same port."""

    def __init__(self, folder: Path, plan: Path, memory: str) -> None:
        models = folder / "models"
        models.mkdir(parents=True, exist_ok=True)
        (models / "network").symlink_to(plan.absolute())
        self._folder = folder
        self._arguments = ["--models", str(models), "--data", str(folder / "data"), "--memory", memory]
        self._port = "0"
        self.peak = 0
        self._log = (folder / "service.log").open("ab")
        self._ended = threading.Event()
        self.start()
        threading.Thread(target=self._watch, daemon=True).start()

    def start(self) -> None:
        command = [sys.executable, "-m", "fheinfer", "serve", *self._arguments, "--port", self._port]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log, text=True)
        self.url = (self.process.stdout or sys.stdin).readline().strip()
        if not self.url:
            raise SystemExit(f"the service did not start: see {self._folder / 'service.log'}")
        self._port = self.url.rpartition(":")[2]

    def token(self, name: str) -> str:
        command = [sys.executable, "-m", "fheinfer", "serve", "token", "add", name]
        done = subprocess.run(
            [*command, "--data", str(self._folder / "data")], capture_output=True, text=True, check=True
        )
        return done.stdout.split()[-1]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.start()

    def stop(self) -> None:
        self._ended.set()
        self.process.terminate()
        self.process.wait()

    def _watch(self) -> None:
        """Keeps the largest sum of resident memory of the service and its workers."""
        while not self._ended.wait(0.5):
            try:
                top = psutil.Process(self.process.pid)
                sizes = [process.memory_info().rss for process in (top, *top.children(recursive=True))]
            except psutil.Error:
                continue
            self.peak = max(self.peak, sum(sizes))


@contextmanager
def served(folder: Path, plan: Path, memory: str) -> Iterator[Service]:
    service = Service(folder, plan, memory)
    try:
        yield service
    finally:
        service.stop()


def inputs(model: Model, count: int) -> list[NDArray[np.float64]]:
    """Different images that the network takes: those that come along, moved, mirrored and dimmed."""
    rng, height, width = np.random.default_rng(7), *model.graph.input_shape[1:]
    shipped = [fi.load_image(name, height) for name in ("vale.jpg", "airplane.png", "luis.png")]
    found = []
    for index in range(count):
        image = np.roll(shipped[index % len(shipped)], tuple(rng.integers(-4, 5, 2)), (0, 1))
        image = image[:, ::-1] if rng.random() < 0.5 else image
        dimmed = (image * rng.uniform(0.7, 1.0)).astype(np.uint8)
        found.append(fi.normalise(dimmed[:height, :width], model.mean, model.std))
    return found


def patiently(call: Callable[[], Any]) -> Any:
    """The call, again while nobody answers: what a person does whose server is being restarted."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return call()
        except UnreachableError:
            if time.monotonic() > until:
                raise
            time.sleep(1.0)


def load(service: Service, folder: Path, args: argparse.Namespace, model: Model) -> Load:
    """Runs the load and says what came of it."""
    result = Load(args.set, args.clients, args.requests, args.kills)
    images = inputs(model, args.requests)
    expected = [np.asarray(fi.plain_outputs(model, x)) for x in images]
    began = time.perf_counter()
    remotes = []
    for number in range(args.clients):
        token = service.token(f"client-{number}")
        remote = fi.Remote(service.url, token, keys=folder / f"client-{number}").open("network")
        remote.prepare()
        remotes.append(remote)
        print(f"keys of client {number + 1} of {args.clients} are there", file=sys.stderr)
    result.prepare_seconds = time.perf_counter() - began
    order = [index % args.clients for index in range(args.requests)]
    random.Random(11).shuffle(order)
    answers = [Answer(client) for client in order]
    result.load = os.getloadavg()[0]
    began, done = time.perf_counter(), [0]

    def follow(index: int, encrypted: bytes, job: Any) -> None:
        answer, remote = answers[index], remotes[order[index]]
        try:
            ended = patiently(lambda: remote.follow(job.id))
            if ended.state != "done":
                raise remote.failure(ended)
            result = remote.result(job.id, encrypted)
            outputs = remote.spec.finish(remote.decrypt(result, encrypted))
            answer.accepted, answer.started, answer.finished = ended.created, ended.started or 0, ended.finished or 0
            answer.bits = fi.precision_bits(expected[index], outputs).minimum
            answer.same_class = fi.top_class(outputs) == fi.top_class(expected[index])
        except FheinferError as error:
            answer.error = f"{type(error).__name__}: {error}"
        done[0] += 1
        print(f"{done[0]} of {args.requests} answered", file=sys.stderr)

    with ThreadPoolExecutor(args.requests) as pool:
        waiting = []
        for index, client in enumerate(order):
            encrypted = remotes[client].encrypt(images[index])
            job = patiently(partial(remotes[client].submit, encrypted))
            waiting.append(pool.submit(follow, index, encrypted, job))
        for kill in range(args.kills):
            while done[0] < args.requests * (kill + 1) // (args.kills + 1):
                time.sleep(0.2)
            service.kill()
            print(f"killed and restarted the server after {done[0]} answers", file=sys.stderr)
        for future in waiting:
            future.result()
    result.seconds = time.perf_counter() - began
    return summed(result, answers, service.peak)


def summed(result: Load, answers: list[Answer], peak: int) -> Load:
    got = [answer for answer in answers if not answer.error]
    result.errors = [answer.error for answer in answers if answer.error]
    result.lost = len(result.errors)
    result.wrong = sum(answer.bits < LEAST_BITS or not answer.same_class for answer in got)
    result.least_bits = min((answer.bits for answer in got), default=0.0)
    each = [[a.started - a.accepted for a in got if a.client == client] for client in range(result.clients)]
    result.waits = [round(statistics.mean(waits), 2) for waits in each if waits]
    result.fair = max(result.waits) / max(min(result.waits), 0.01)
    result.memory = peak
    return result


def overhead(service: Service, folder: Path, plan: Path, args: argparse.Namespace, model: Model) -> dict[str, Any]:
    """Seconds of a request, from submission to verified result, beside those of the same evaluation on its own.

    "overhead" is their difference, which is noisy on a busy machine; "around" is what it takes while no worker has it.
    """
    remote = fi.Remote(service.url, service.token("alone"), keys=folder / "alone").open("network")
    remote.prepare()
    remote.outputs(inputs(model, 1)[0])
    whole, alone, around = [], [], []
    with EvaluatingProcess() as process:
        process.load(plan, remote.folder.keys / SERVER_FOLDER)
        for index, x in enumerate(inputs(model, args.overhead + 1)):
            encrypted = remote.encrypt(x)
            file = folder / "input.ct"
            atomic_write(file, [encrypted])
            seconds = process.evaluate([file], [folder / "result.ct"])
            began = time.perf_counter()
            job = remote.follow(remote.submit(encrypted).id)
            remote.result(job.id, encrypted)
            took = time.perf_counter() - began
            if index:  # the first one warms both
                whole.append(took)
                alone.append(sum(seconds))
                around.append(took - (job.finished or 0) + (job.started or 0))
        process.finish()
    each = [w - a for w, a in zip(whole, alone, strict=True)]
    return {
        "set": args.set,
        "service": statistics.median(whole),
        "evaluate": statistics.median(alone),
        "overhead": statistics.median(each),
        "around": statistics.median(around),
        "each": each,
        "load": os.getloadavg()[0],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", default="turbo")
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--overhead", type=int, default=0, metavar="N")
    parser.add_argument("--memory", default="10GB")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    plan = plan_folder(None, args.set, None, None, None)
    model = load_model(model_file(None, load_plan(plan).params))
    with tempfile.TemporaryDirectory(prefix="fheinfer-load-", dir=args.folder) as temporary:
        folder = Path(temporary)
        with served(folder, plan, args.memory) as service:
            if args.overhead:
                found = overhead(service, folder, plan, args, model)
            else:
                found = asdict(load(service, folder, args, model))
    text = json.dumps(found, indent=2)
    if args.json:
        args.json.write_text(text + "\n")
    print(text)
    return 1 if found.get("lost") or found.get("wrong") else 0


if __name__ == "__main__":
    sys.exit(main())

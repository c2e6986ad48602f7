"""The page in a browser, over real services: what a person does is in scenarios.mjs.

FHEINFER_SCREENSHOTS=DIR keeps screenshots of it there.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

import fheinfer
from fheinfer.errors import WeightsError
from tests.page.proxy import Proxy

HERE = Path(__file__).parent
SECONDS = 90


@contextmanager
def started(*arguments: object, cwd: Path, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`fheinfer ARGUMENTS` in a process, and the first line that it prints; it has ended afterwards."""
    package = str(Path(fheinfer.__file__).parent.parent)
    process = subprocess.Popen(
        [sys.executable, "-m", "fheinfer", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": package, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        assert line.startswith("http://127.0.0.1:"), f"{arguments} ended with {process.wait()}"
        yield process, line
    finally:
        process.terminate()
        process.wait(SECONDS)


@pytest.fixture(scope="session")
def browser() -> Mapping[str, str]:
    """The environment of a scenario; skips where there is no browser, no Node, or none of its packages."""
    chromium = shutil.which("chromium")
    if chromium is None or shutil.which("node") is None:
        pytest.skip("no chromium or no node here: apt-get install chromium nodejs npm")
    if not (HERE / "node_modules").is_dir():
        pytest.skip("no packages of npm here: `make test` installs them, or npm ci in tests/page")
    return {**os.environ, "CHROMIUM": chromium}


@pytest.fixture(scope="session")
def models(tiny_plan_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(tiny_plan_folder, folder / "tiny")
    return folder


Scenario = Callable[..., None]


@pytest.fixture(scope="session")
def act(browser: Mapping[str, str], tiny_image_file: Path) -> Scenario:
    """act("name", URL, word=what to do): a scenario of scenarios.mjs, which may ask for something to be done."""

    def run(name: str, url: str, **requests: Callable[[], object]) -> None:
        node = subprocess.Popen(
            ["node", "scenarios.mjs", name],
            cwd=HERE,
            env={**browser, "PAGE_URL": url, "IMAGE": str(tiny_image_file)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        timer = threading.Timer(SECONDS, node.kill)
        timer.start()
        try:
            for line in node.stdout or ():
                requests[line.strip().replace(" ", "_")]()
                if node.stdin:
                    node.stdin.write("done\n")
                    node.stdin.flush()
            _, said = node.communicate()
        finally:
            timer.cancel()
        assert node.returncode == 0, said

    return run


@pytest.fixture(scope="session")
def page(
    browser: Mapping[str, str], models: Path, tiny_model_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of a page with a service of its own."""
    folder = tmp_path_factory.mktemp("desk")
    with started("app", "--no-browser", "--models", models, "--model", tiny_model_file, cwd=folder) as (_, url):
        yield url


def test_the_whole_way(
    act: Scenario, models: Path, tiny_model_file: Path, tiny_image_file: Path, tmp_path: Path
) -> None:
    arguments = ("app", "--no-browser", "--models", models, "--data", "own", "--model", tiny_model_file)
    with started(*arguments, cwd=tmp_path) as (process, url):
        children = psutil.Process(process.pid).children(recursive=True)
        assert children, "the service is a process of its own"

        def end() -> None:
            process.terminate()
            process.wait(SECONDS)

        act("wholeWay", url, end_the_program=end)
    assert process.returncode == 128 + signal.SIGTERM
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]

    image = tiny_image_file.read_bytes()[-64:]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert (tmp_path / "own" / "keys") in {parent for path in files for parent in path.parents}
    assert not [path for path in files if image in path.read_bytes() or b"tiny.png" in path.read_bytes()]
    jobs = tmp_path / "own" / "service" / "jobs"
    assert not jobs.exists() or not [path for path in jobs.rglob("*") if path.is_file()], "the service forgot its jobs"


@pytest.mark.parametrize("name", ["keyboard", "noImage", "looks"])
def test_a_person(act: Scenario, page: str, name: str) -> None:
    act(name, page)


def test_a_server_that_goes_away_in_the_middle(act: Scenario, models: Path, tmp_path: Path) -> None:
    """Killed after it has taken the job, and started again: the same job goes on to its answer."""
    data = ("--data", tmp_path / "service")
    token = subprocess.run(
        [sys.executable, "-m", "fheinfer", "serve", "token", "add", "person", *map(str, data)],
        env={**os.environ, "PYTHONPATH": str(Path(fheinfer.__file__).parent.parent)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    serve = ("serve", "--models", models, *data, "--port")
    with ExitStack() as stack:
        process, service = stack.enter_context(started(*serve, 0, cwd=tmp_path))
        port = int(service.rpartition(":")[2])
        proxy = stack.enter_context(Proxy(port, cut_at=b"/events"))
        _, url = stack.enter_context(
            started("app", "--no-browser", "--server", proxy.url, "--keys", "mine", cwd=tmp_path, FHEINFER_TOKEN=token)
        )

        def back() -> None:
            process.kill()
            process.wait()
            stack.enter_context(started(*serve, port, cwd=tmp_path))
            proxy.open()

        act("serverGone", url, bring_the_server_back=back)
    assert list((tmp_path / "mine").iterdir())
    assert not (tmp_path / "keys").exists()


def test_its_own_service_ends_with_it_and_comes_back_where_it_dies(models: Path, tmp_path: Path) -> None:
    with started("app", "--no-browser", "--models", models, cwd=tmp_path) as (process, _):
        own = psutil.Process(process.pid)
        [first] = own.children()
        first.kill()
        second = _awaited(lambda: next((child for child in own.children() if child.pid != first.pid), None))
        process.kill()
        process.wait()
        _awaited(lambda: not second.is_running() or second.status() == psutil.STATUS_ZOMBIE)


def _awaited(what: Callable[[], object]) -> psutil.Process:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with suppress(psutil.NoSuchProcess):
            if found := what():
                return found  # type: ignore[return-value]
        time.sleep(0.05)
    raise AssertionError("it did not happen")


def test_a_taken_port_and_options_that_change_nothing_are_refused(command: Callable[..., Any], tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = command("app", "--server", "http://127.0.0.1:1", "--port", taken.getsockname()[1])
        assert (result.code, "choose another --port" in result.err) == (2, True)
    result = command("app", "--server", "http://127.0.0.1:1", "--models", tmp_path)
    assert (result.code, "--models changes nothing here" in result.err) == (2, True)
    result = command("app", "--keys", tmp_path)
    assert (result.code, "--keys changes nothing here" in result.err) == (2, True)
    result = command("app", "--server", "http://127.0.0.1:1", "--model", tmp_path / "nosuch.safetensors")
    assert (result.code, "nosuch.safetensors" in result.err) == (WeightsError.exit_code, True)

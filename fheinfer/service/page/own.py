"""The service that the page starts for itself: `fheinfer serve` on a free port of this machine, for one client."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from fheinfer.data.files import one_line
from fheinfer.errors import BackendError
from fheinfer.evaluating import environment
from fheinfer.storage import PRIVATE_FOLDER, make_folder

CLIENT = "page"
"""The account of the page, the same at every start: its keys are there already."""
GRACE = 10.0
"""Seconds that the service gets to stop: what it computes writes a checkpoint first."""
PAUSE = 1.0
"""Seconds until it is started again."""
LOG = "service.log"
"""Beside its folder: what it said, over its starts; what was before the last `LOG_BYTES` is in `service.log.old`."""
LOG_BYTES = 4 << 20
_PYTHON = [sys.executable, "-P"]
"""It imports nothing from the current folder, which may be anybody's, or sources without the compiled core."""
_PROGRAM = (
    "import sys; from fheinfer.process import die_with_parent; die_with_parent(int(sys.argv.pop(1))); "
    "from fheinfer.cli.entry import main; main()"
)


class OwnService:
    """Starts the service, starts it again where it ends, and ends it with itself.

    Args:
        data: its folder, kept between starts so that keys need not be uploaded again.
        models: folder of models; what `fheinfer serve` has without one.

    Attributes:
        url, token: for `Remote`.

    Raises:
        FheinferError: it does not start, with its own words.
    """

    def __init__(self, data: Path, models: Path | None) -> None:
        self._data = ["--data", str(data)]
        self._models = [] if models is None else ["--models", str(models)]
        self._log = data.parent / LOG
        make_folder(data, PRIVATE_FOLDER)
        self.token = self._token()
        self._closing = threading.Event()
        self.url = self._start(0)
        self._watcher = threading.Thread(target=self._watch, name="fheinfer-own-service", daemon=True)
        self._watcher.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._process.terminate()
        self._watcher.join(GRACE)
        if self._watcher.is_alive():
            self._process.kill()
            self._watcher.join()

    def _watch(self) -> None:
        """Starts it again, on the same port, until it is not to go on."""
        port = int(self.url.rpartition(":")[2])
        while True:
            self._process.wait()
            while True:
                if self._closing.wait(PAUSE):
                    return
                with suppress(BackendError, OSError):
                    self._start(port)
                    break
            if self._closing.is_set():  # between the two lines above
                self._process.terminate()

    def _start(self, port: int) -> str:
        """Starts the service and returns its address, once it has one."""
        command = [*_PYTHON, "-c", _PROGRAM, str(os.getpid())]
        if self._log.exists() and self._log.stat().st_size > LOG_BYTES:
            self._log.replace(self._log.with_suffix(".log.old"))
        with self._log.open("ab") as log:
            began = log.tell()
            process = subprocess.Popen(
                [*command, "serve", *self._models, *self._data, "--port", str(port)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment(),
                start_new_session=True,  # Ctrl-C is for this process, which ends the service after its own work
            )
        self._process = process  # at once: whoever ends this meanwhile ends that
        url = (process.stdout.readline() if process.stdout else "").strip()
        if not url.startswith("http://127.0.0.1:"):
            process.kill()
            process.wait()
            said = self._log.read_bytes()[began:].decode(errors="replace")
            raise BackendError(f"the service did not start ({_last_words(said)}); see {self._log}")
        return url

    def _token(self) -> str:
        """A new one, which is in the memory of this process alone."""
        command = [*_PYTHON, "-m", "fheinfer", "serve", "token", "add", CLIENT, *self._data]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment())
        if done.returncode:
            raise BackendError(f"no token of the service ({_last_words(done.stderr)})")
        return done.stdout.strip()


def _last_words(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return one_line(lines[-1].removeprefix("error: "), 300) if lines else "it said nothing"

"""The command line: which commands there are, and what becomes of errors and signals."""

from __future__ import annotations

import errno
import sys
from typing import Annotated, Any, NoReturn

import typer

from fheinfer import process
from fheinfer.cli import (
    accuracy,
    approx,
    bench,
    client,
    infer,
    keys,
    model,
    plan,
    precision,
    search,
    serve,
    server,
    training,
)
from fheinfer.cli import app as page
from fheinfer.cli.options import with_ray_address
from fheinfer.errors import FheinferError, NotEnoughMemoryError, StorageError, UsageError

_RESUMED = ("infer", "evaluate", "accuracy", "train", "finetune")
"""Commands that can go on from where they were."""

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A neural network looks at data that it never sees.",
)
for command in (
    infer.infer,
    infer.demo,
    plan.compile,
    keys.keygen,
    client.encrypt,
    server.evaluate,
    client.decrypt,
    plan.sets,
    plan.plan,
    precision.precision,
    accuracy.accuracy,
    search.search,
    training.train,
    training.finetune,
    training.calibrate,
    bench.bench,
    keys.export,
    page.app,
):
    app.command()(command)
app.add_typer(model.model_app, name="model")
app.add_typer(approx.approx_app, name="approx")
app.add_typer(serve.serve_app, name="serve")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            number = version("fheinfer")
        except PackageNotFoundError:
            number = "unknown (not installed)"
        typer.echo(f"fheinfer {number}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """A neural network looks at data that it never sees."""


def main() -> None:
    """Runs a command: our errors become one line and their exit code, Ctrl-C 130, a reader that went away 141."""
    process.install()
    try:
        code = _run()
    except FheinferError as error:
        _fail(str(error), error.exit_code)
    except BrokenPipeError:
        process.silence_output()
        sys.exit(process.BROKEN_PIPE)
    except OSError as error:
        if error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            process.silence_output()  # what is buffered would fail again at exit
            _fail(f"cannot write the output: {error.strerror}; send it to another disk", StorageError.exit_code)
        _fail(_os_error(error), StorageError.exit_code)
    except MemoryError:
        _fail("out of memory; close other programs or choose a smaller set", NotEnoughMemoryError.exit_code)
    except KeyboardInterrupt:
        _fail(_stopped(), process.INTERRUPTED)
    except Exception as error:  # of which typer's own are
        _fail_usage(error)
    if code == process.INTERRUPTED:  # what typer makes of Ctrl-C
        _fail(_stopped(), process.INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


def _stopped() -> str:
    command = next(iter(sys.argv[1:]), "")
    if any(argument.split("=")[0] == "--server" for argument in sys.argv[2:]):
        return "stopped; the same command goes on with the keys that are made and uploaded"
    return "stopped" + (f"; `fheinfer {command} --resume` goes on from where it was" if command in _RESUMED else "")


def _run() -> object:
    process.tolerate_any_name()
    try:
        code = app(with_ray_address(sys.argv[1:]), prog_name="fheinfer", standalone_mode=False)
    except SystemExit as stop:
        if isinstance(stop.__context__, BrokenPipeError):  # which typer makes a 1 of
            raise stop.__context__ from None
        raise
    sys.stdout.flush()
    return code


def _os_error(error: OSError) -> str:
    """A name that is too long, a folder that may not be entered: what no reader or writer expected."""
    where = "" if error.filename is None else f"{error.filename}: "
    return f"{where}{error.strerror or error}; check the path"


def _fail_usage(error: Exception) -> NoReturn:
    """An error of the library that reads arguments, in one line instead of its three."""
    message: Any = getattr(error, "format_message", None)
    if message is None:
        if type(error).__name__ == "Abort":  # Ctrl-C and Ctrl-D at a prompt
            _fail(_stopped(), process.INTERRUPTED)
        raise error
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()  # type: ignore[attr-defined]
        sys.exit(UsageError.exit_code)
    context: Any = getattr(error, "ctx", None)
    path = context.command_path if context else "fheinfer"
    _fail(f"{message().rstrip('.')}; see `{path} --help`", getattr(error, "exit_code", UsageError.exit_code))


def _fail(message: str, code: int) -> NoReturn:
    from fheinfer.cli.display import print_error

    print_error(message)
    exec("")  # after an interrupted exec(), which dataclasses use, Python ends by the signal and not with our code
    sys.exit(code)

"""`fheinfer serve`: the service as a command, and the tokens of its clients. Imports nothing of the client."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fheinfer.cli import choices
from fheinfer.cli.options import JsonOption, RayOption, ThreadsOption, parse_size
from fheinfer.errors import UsageError
from fheinfer.optional import require

if TYPE_CHECKING:
    from fheinfer.service.store import Store
    from fheinfer.service.workers import Workers

DATA = Path("service")
DEFAULT_SET = "turbo"
serve_app = typer.Typer(invoke_without_command=True)
token_app = typer.Typer(no_args_is_help=True, help="Tokens by which clients are known.")
serve_app.add_typer(token_app, name="token")

DataOption = Annotated[
    Path, typer.Option("--data", metavar="DIR", help="Where the service keeps clients, keys and jobs.")
]


@serve_app.callback()
def serve(
    context: typer.Context,
    models: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of models: what `fheinfer compile -o DIR/NAME` writes is served as NAME.",
            show_default=f"the model that comes with set {DEFAULT_SET}",
        ),
    ] = None,
    data: DataOption = DATA,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Listen there.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="Listen there; 0 takes a free one.")] = 8000,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, max=256, help="Processes that evaluate.", show_default="1; with --ray as many as fit"
        ),
    ] = None,
    threads: ThreadsOption = None,
    memory: Annotated[
        int | None,
        typer.Option(
            metavar="SIZE",
            parser=parse_size,
            help="Memory of all workers together: 6GB, 500MB or bytes. With --ray, as --threads, of each.",
            show_default="three quarters of what is free; with --ray none",
        ),
    ] = None,
    ray: RayOption = None,
    keep_results: Annotated[float, typer.Option(min=0.01, metavar="HOURS", help="Keep results so long.")] = 24,
    keep_keys: Annotated[float, typer.Option(min=0.01, metavar="DAYS", help="Keep unused keys so long.")] = 30,
    keep_plans: Annotated[
        float, typer.Option(min=0, metavar="DAYS", help="Keep a replaced plan so long for those who encrypted for it.")
    ] = 30,
    tls_cert: Annotated[Path | None, typer.Option(metavar="FILE", help="Certificate chain for TLS (PEM).")] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="Its private key (PEM).")] = None,
    behind_proxy: Annotated[
        bool, typer.Option("--behind-proxy", help="A proxy does TLS and says X-Forwarded-For; nobody else gets here.")
    ] = False,
) -> None:
    """Serve models to clients that keep their secret keys.

    Prints its address once it is ready; logs go to standard error as JSON lines. SIGTERM and Ctrl-C stop it: jobs go on
    from where they were when it runs again. Make a token for a client first: `fheinfer serve token add NAME`.
    """
    if context.invoked_subcommand is not None:
        _refuse_options(context)
        return
    for package in ("fastapi", "prometheus_client", "structlog", "swagger_ui_bundle", "uvicorn"):
        require(package, "`fheinfer serve`")
    from fheinfer.machine import available_memory
    from fheinfer.service.http.logs import configure
    from fheinfer.service.http.service import Settings, running
    from fheinfer.service.http.serving import listen
    from fheinfer.service.http.serving import serve as run
    from fheinfer.service.store import DAY

    if (tls_cert is None) != (tls_key is None):
        raise UsageError("--tls-cert and --tls-key go together: give both or none")
    if tls_cert is not None and behind_proxy:
        raise UsageError("--behind-proxy says that a proxy does TLS; leave out --tls-cert and --tls-key, or it")

    if ray is not None:
        require("ray", "evaluation on several machines")
    models = models or _shipped(data)
    if ray is None:
        workers = workers or 1
        if memory is None and (free := available_memory()) is not None:
            memory = free // 4 * 3
    settings = Settings(
        models=models.absolute(),
        data=data.absolute(),
        memory=memory // workers if memory and workers and ray is None else memory,  # of each worker
        keep_results=keep_results * 3600,
        keep_keys=keep_keys * DAY,
        keep_plans=keep_plans * DAY,
        behind_proxy=behind_proxy,
    )
    configure()
    with (
        listen(host, port, protected=behind_proxy or tls_cert is not None) as listening,
        running(settings, lambda: _workers(ray, workers, threads, memory)) as service,
    ):
        run(service, listening, tls_cert, tls_key)


def _workers(ray: str | None, workers: int | None, threads: int | None, memory: int | None) -> Workers:
    if ray is not None:
        from fheinfer.service.ray_workers import RayWorkers

        return RayWorkers(ray, workers, threads=threads, memory=memory)
    from fheinfer.service.workers import LocalWorkers

    return LocalWorkers(workers or 1, threads=threads, memory=memory)


def _shipped(data: Path) -> Path:
    """A folder with the model that comes with fheinfer, compiled if that was never done here."""
    from fheinfer.cli.display import spinner
    from fheinfer.model.model import load
    from fheinfer.storage import PRIVATE_FOLDER, atomic_write, make_folder

    with spinner("compiling the model that comes with fheinfer") if sys.stderr.isatty() else nullcontext():
        plan = choices.plan_folder(None, DEFAULT_SET)
    folder = data / "models"
    make_folder(data, PRIVATE_FOLDER)
    make_folder(folder / DEFAULT_SET)
    for file in plan.iterdir():  # a copy: the cache drops plans that were not used for long
        atomic_write(folder / DEFAULT_SET / file.name, [file.read_bytes()])
    card = load(choices.model_file(None, choices.parameters(DEFAULT_SET))).provenance
    images, percent = next((name, said) for name, said in card.items() if name.endswith(" test images"))
    about = {"accuracy": round(float(percent.split()[0]) / 100, 6), "description": images}
    atomic_write(folder / DEFAULT_SET / "about.json", [json.dumps(about).encode()])
    return folder


def _refuse_options(context: typer.Context) -> None:
    for name in context.params:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = name.replace("_", "-")
            raise UsageError(f"--{option} changes nothing here: options of a command stand behind it; move or drop it")


@token_app.command("add")
def add(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Whom it is for; tokens of one name share keys and jobs.")
    ],
    data: DataOption = DATA,
    days: Annotated[float, typer.Option(min=0.001, help="Days that it is valid.")] = 90,
    operator: Annotated[bool, typer.Option("--operator", help="Let it read /metrics.")] = False,
    max_jobs: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Unfinished jobs at a time.", show_default="what the account has, or 50"),
    ] = None,
    max_key_bytes: Annotated[
        int | None,
        typer.Option(
            metavar="SIZE",
            parser=parse_size,
            help="Keys on the service's disk: 6GB, 500MB or bytes.",
            show_default="what the account has, or 8 GiB",
        ),
    ] = None,
) -> None:
    """Make a token and print it. It is shown once: the service keeps a hash of it."""
    with _store(data, make=True) as store:
        typer.echo(store.add_token(name, operator=operator, days=days, max_jobs=max_jobs, max_key_bytes=max_key_bytes))


@token_app.command("list")
def list_(data: DataOption = DATA, as_json: JsonOption = False) -> None:
    """List tokens: whose they are, how long they are valid, and what their accounts have; not the tokens themselves."""
    from datetime import UTC, datetime

    from fheinfer.cli.display import print_json, table
    from fheinfer.cli.progress import size

    with _store(data) as store:
        found = store.tokens()
    if as_json:
        print_json([asdict(row) for row in found])
        return

    def day(seconds: float | None) -> str:
        return "" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"

    rows = [
        [
            row.name + " (operator)" * row.operator,
            row.id,
            *(day(time) for time in (row.created, row.expires, row.revoked)),
            f"{size(row.key_bytes)} of {size(row.max_key_bytes)}",
            row.jobs,
            row.max_jobs,
        ]
        for row in found
    ]
    columns = ["name", "token", "created", "expires", "revoked", "keys", "jobs", "unfinished at most"]
    table("tokens (UTC), and what their accounts have", columns, rows, left=2)


@token_app.command("revoke")
def revoke(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose tokens.")],
    data: DataOption = DATA,
    token: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Only this one, as `token list` names it.", show_default="all of the name"),
    ] = None,
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete keys and jobs of the name, too: a running service does so soon.")
    ] = False,
) -> None:
    """Revoke tokens of a name at once, while a service runs, too. Keys and jobs stay until their time is over."""
    from fheinfer.cli.display import err

    if token and delete:
        raise UsageError("--delete takes the keys and jobs that all tokens of a name share; leave out --token, or it")
    with _store(data) as store:
        count = store.revoke(name, token, delete=delete)
    gone = "; the service deletes its keys and jobs within a minute, or of its next start" if delete else ""
    err.print(f"revoked {count} token{'s' * (count != 1)} of {name}{gone}")


@contextmanager
def _store(data: Path, *, make: bool = False) -> Iterator[Store]:
    from fheinfer.service.store import FILE_NAME, Store
    from fheinfer.storage import PRIVATE_FOLDER, make_folder, shown

    if make:
        make_folder(data, PRIVATE_FOLDER)
    elif not (data / FILE_NAME).is_file():
        raise UsageError(f"no service keeps its data in {shown(data)}; name its folder with --data")
    store = Store(data / FILE_NAME)
    try:
        yield store
    finally:
        store.close()

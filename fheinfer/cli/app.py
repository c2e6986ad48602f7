"""`fheinfer app`: a local page to drop an image on, in the browser of this machine."""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fheinfer.cli.options import PassphraseOption, TokenOption, refuse
from fheinfer.optional import require

if TYPE_CHECKING:
    from fheinfer.service.page.own import OwnService

DATA = Path("page")
"""Folder of the service that the page starts, and of the keys for it: they are of no use without each other."""
PATIENCE = 1.0
"""Seconds without an answer after which the page tells that the service is away; it goes on asking."""


def app(
    server: Annotated[
        str | None, typer.Option("--server", metavar="URL", help="Service to use.", show_default="one of its own")
    ] = None,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, metavar="PORT", help="Port of the page; 0 takes a free one.")
    ] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the browser.")] = True,
    models: Annotated[
        Path | None,
        typer.Option("--models", metavar="DIR", help="Models of its own service.", show_default="that of set turbo"),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="Folder of its own service and its keys.", show_default=str(DATA)),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model", metavar="FILE", help="Model to compare with.", show_default="the shipped one of the same name"
        ),
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option("--keys", metavar="DIR", help="Folder of the keys for a --server.", show_default="keys/servers"),
    ] = None,
    token_file: TokenOption = None,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Open a page to drop an image on: encrypted here, computed by a service, decrypted here."""
    if server is None:
        refuse("it is of a --server", token_file=token_file, keys=keys)
    else:
        refuse("--server has a service that is there already", models=models, data=data)
    require("uvicorn", "`fheinfer app`")
    from fheinfer.cli.remote import connect
    from fheinfer.crypto.passphrase import read_passphrase
    from fheinfer.service.page.app import LocalPage
    from fheinfer.service.page.clear import InClear
    from fheinfer.service.page.serving import listen, serve
    from fheinfer.service.remote import Remote

    in_clear = InClear(model)
    options: Any = {"passphrase": read_passphrase(passphrase_file), "patience": PATIENCE}
    with ExitStack() as stack:
        listening = stack.enter_context(listen(port))
        if server is None:
            folder = data or DATA
            own = stack.enter_context(_own_service(folder, models))
            options |= {"keys": folder / "keys", "name": "own"}  # its port is another one every time
            remote = stack.enter_context(Remote(own.url, own.token, **options))
        else:
            remote = stack.enter_context(connect(server, token_file, keys, **options))
        page = LocalPage(remote, server, in_clear)
        serve(page, listening, lambda address: _announce(address, browser))


def _own_service(folder: Path, models: Path | None) -> OwnService:
    from fheinfer.cli.display import spinner
    from fheinfer.service.page.own import OwnService

    with spinner("starting the service") as tell:
        if models is None and not (folder / "service" / "models").exists():
            tell("its model is compiled the first time")
        return OwnService(folder / "service", models)


def _announce(address: str, browser: bool) -> None:
    typer.echo(address)
    if browser and any(name in os.environ for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")):
        import webbrowser

        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()  # takes seconds to return

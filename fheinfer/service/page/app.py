"""The local page as an ASGI application: three files, and what they ask this process for. docs/how-to/page.md.

The browser sends an image and gets what to show. Keys, encryption and decryption are here; the service is reached by
`Remote` alone.
"""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from fheinfer.crypto.client_spec import ClientSpec
from fheinfer.data.files import printable
from fheinfer.data.images import decode, normalise
from fheinfer.data.resources import find_input
from fheinfer.errors import FheinferError, ImageError, InputError, NotFoundError, UnreachableError
from fheinfer.service.page.clear import InClear
from fheinfer.service.page.guard import Guard
from fheinfer.service.page.runs import Runs
from fheinfer.service.page.steps import Run, shown_error
from fheinfer.service.remote import Remote, RemoteModel

STATIC = Path(__file__).parent / "static"
TYPES = {".css": "text/css", ".html": "text/html", ".js": "text/javascript", ".svg": "image/svg+xml"}
EXAMPLES = ("vale.jpg", "luis.png", "airplane.png")
"""Images that come along."""
MAX_IMAGE = 64 << 20
"""Bytes of an image that the browser may send."""
LOOK = 0.1
"""Seconds between two looks at a run that is followed."""


class LocalPage:
    """What the page can ask for.

    Args:
        remote: the service.
        url: of it; None of one that this process has started.
        in_clear: computes what answers are compared with.
    """

    def __init__(self, remote: Remote, url: str | None, in_clear: InClear) -> None:
        self._remote, self._url, self._clear = remote, url, in_clear
        self.runs = Runs(self._open, in_clear)

    def routes(self) -> list[Route]:
        return [
            *(Route("/" if path.name == "index.html" else f"/{path.name}", _file(path)) for path in STATIC.iterdir()),
            Route("/api/page", self.page),
            Route("/api/models/{name}", self.model),
            Route("/api/examples/{name}", self.example),
            Route("/api/runs", self.history),
            Route("/api/runs", self.start, methods=["POST"]),
            Route("/api/runs", self.clear, methods=["DELETE"]),
            Route("/api/runs/{id:int}", self.run),
            Route("/api/runs/{id:int}/events", self.events),
            Route("/api/runs/{id:int}/seen.png", self.seen),
            Route("/api/runs/{id:int}/sent.png", self.sent),
            Route("/api/runs/{id:int}/stop", self.stop, methods=["POST"]),
        ]

    async def page(self, request: Request) -> Response:
        """What there is to choose from."""
        models = await run_in_threadpool(self._remote.models)
        return JSONResponse(
            {
                "server": self._url,
                "models": [model.model_dump(mode="json") for model in models],
                "examples": [name for name in EXAMPLES if find_input(name)],
                "limit": MAX_IMAGE,
            }
        )

    async def model(self, request: Request) -> Response:
        """What a model takes."""
        name = request.path_params["name"]
        spec = (await run_in_threadpool(self._open, name)).spec
        can = await run_in_threadpool(self._clear.has, spec)
        takes = {"image": _takes_image(spec), "shape": list(spec.input_shape), "command": self._command(name)}
        return JSONResponse(takes | {"classes": list(spec.outputs[0].classes), "compare": can})

    async def example(self, request: Request) -> Response:
        """An image that comes along, as it is."""
        return FileResponse(_example(request.path_params["name"]))

    async def start(self, request: Request) -> Response:
        """Begins a run: of the image in the body, of an example by its name, or of an earlier run's image `again`."""
        query = request.query_params
        model, compare = query.get("model", ""), query.get("compare") == "1"
        if "again" in query:
            before = self.runs.run(_number(query["again"]))
            run = self.runs.start(before.model, before.name, before.pixels, before.x, compare=before.compare)
            return JSONResponse(run.shown(), 202)
        if "example" in query:
            name = query["example"]
            body = await run_in_threadpool(_example(name).read_bytes)
        else:
            name, body = query.get("name", "image"), await _body(request)
        run = await run_in_threadpool(self._start, model, printable(name, 80), body, compare)
        return JSONResponse(run.shown(), 202)

    async def run(self, request: Request) -> Response:
        return JSONResponse(self._run(request).shown())

    async def history(self, request: Request) -> Response:
        return JSONResponse([run.shown() for run in self.runs.all()])

    async def clear(self, request: Request) -> Response:
        self.runs.clear()
        return Response(status_code=204)

    async def stop(self, request: Request) -> Response:
        await run_in_threadpool(self.runs.stop, self._run(request))
        return Response(status_code=204)

    async def events(self, request: Request) -> Response:
        """The run after every change of it, to its end (server-sent events)."""
        return StreamingResponse(_changes(self._run(request)), media_type="text/event-stream")

    async def seen(self, request: Request) -> Response:
        """The exact pixels that the network sees."""
        pixels = self._run(request).pixels
        return _png(Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))

    async def sent(self, request: Request) -> Response:
        """Bytes of what the server saw, as the brightness of pixels."""
        sample = self._run(request).sample
        side = int(len(sample) ** 0.5)
        if side < 1:
            raise NotFoundError("nothing was sent yet; wait until the image is encrypted")
        return _png(Image.fromarray(np.frombuffer(sample[: side * side], np.uint8).reshape(side, side)))

    def _run(self, request: Request) -> Run:
        return self.runs.run(request.path_params["id"])

    def _open(self, name: str) -> RemoteModel:
        """The model of that name; of a service of its own whatever plan is there now, by this fheinfer."""
        return self._remote.open(name, accept_plan=self._url is None)

    def _command(self, model: str) -> str:
        """What asks a model on the command line: nobody has the token of a service that this process has started."""
        where = f"--plan MODELS/{model}" if self._url is None else f"--server {self._url} --model {model}"
        return f"fheinfer infer {where} --input FILE"

    def _start(self, model: str, name: str, body: bytes, compare: bool) -> Run:
        spec = self._open(model).spec
        if not _takes_image(spec):
            raise InputError(
                f"{spec.model} takes a tensor of shape {spec.input_shape}, and this page has images alone; "
                f"use `{self._command(model)}`"
            )
        found = decode(io.BytesIO(body), name, spec.image_size, spec.input_shape[0], None)
        return self.runs.start(model, name, found.pixels, normalise(found.pixels, spec.mean, spec.std), compare=compare)


def create_app(page: LocalPage, port: int, token: str) -> Starlette:
    """The application for 127.0.0.1 and this port, open to who has the token."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(page.runs.close)

    return Starlette(
        routes=page.routes(),
        middleware=[Middleware(Guard, port=port, token=token)],
        exception_handlers={FheinferError: _problem},
        lifespan=lifespan,
    )


def _takes_image(spec: ClientSpec) -> bool:
    return len(spec.input_shape) == 3 and spec.input_shape[0] in (1, 3)


def _example(name: str) -> Path:
    path = find_input(name) if name in EXAMPLES else None
    if path is None:
        raise NotFoundError("no such example came with this copy of fheinfer; choose an image of your own")
    return path


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0


async def _body(request: Request) -> bytes:
    """The body of a request, read no further than an image may be long."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_IMAGE:
            raise ImageError(f"this file is over {MAX_IMAGE >> 20} MB; make the image smaller first")
    return bytes(body)


async def _changes(run: Run) -> AsyncIterator[str]:
    version = -1
    while True:
        over = not run.going_on  # asked first: what changes after it is sent the next time
        if version != run.version:
            version = run.version
            yield f"data: {json.dumps(run.shown())}\n\n"
        if over:
            return
        await asyncio.sleep(LOOK)


async def _problem(request: Request, error: Exception) -> Response:
    status = 404 if isinstance(error, NotFoundError) else 503 if isinstance(error, UnreachableError) else 400
    return JSONResponse(shown_error(error), status)


def _file(path: Path) -> Callable[[Request], Any]:
    async def answer(request: Request) -> Response:
        return FileResponse(path, media_type=TYPES[path.suffix])

    return answer


def _png(image: Image.Image) -> Response:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return Response(stream.getvalue(), media_type="image/png")

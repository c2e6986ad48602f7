"""The ASGI application: what is open to everybody, and the routes of models, keys and jobs for those with a token."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.responses import Response
from fastapi.routing import APIRoute

from fheinfer.service.http import docs_page, problems, routes_jobs, routes_keys, routes_models
from fheinfer.service.http.auth import operator
from fheinfer.service.http.metrics import MEDIA_TYPE as METRICS_TYPE
from fheinfer.service.http.service import Service
from fheinfer.service.http.watch import Watch
from fheinfer.service.protocol import PREFIX, PROTOCOL, Problem, ServerInfo

_PROBLEM = {"schema": {"$ref": "#/components/schemas/Problem"}}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    "default": {"description": "A problem (RFC 9457)", "model": Problem, "content": {problems.MEDIA_TYPE: _PROBLEM}}
}
"""What every route may answer instead."""


def create_app(service: Service) -> FastAPI:
    """The application of a service that runs."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.changes.attach()
        yield

    app = FastAPI(
        title="fheinfer",
        description="Encrypted inference: the service computes on ciphertexts and holds no key that opens them.",
        version=str(PROTOCOL),
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        responses=PROBLEMS,
        generate_unique_id_function=_name,
        redirect_slashes=False,
    )
    app.state.service = service
    app.add_middleware(Watch, metrics=service.metrics)
    problems.install(app, service.settings.data)
    app.include_router(docs_page.router)
    for router in (routes_models.router, routes_keys.router, routes_jobs.router):
        app.include_router(router)
    _add_open(app, service)
    return app


def _name(route: APIRoute) -> str:
    return route.name


def _add_open(app: FastAPI, service: Service) -> None:
    @app.head("/livez", include_in_schema=False)
    @app.get("/livez", summary="Whether the process answers")
    def livez() -> dict[str, bool]:
        return {"live": True}

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", summary="Whether it takes jobs; 503 while it stops")
    def readyz() -> dict[str, bool]:
        service.check_ready()
        return {"ready": True}

    @app.get(
        "/metrics",
        summary="Figures for Prometheus, for operators",
        response_class=Response,
        responses={200: {"content": {METRICS_TYPE: {"schema": {"type": "string"}}}}},
        dependencies=[Depends(operator)],
    )
    def metrics() -> Response:
        return Response(service.metrics.text(), media_type=METRICS_TYPE)

    @app.get(f"{PREFIX}/server", summary="The handshake")
    def server() -> ServerInfo:
        return service.info

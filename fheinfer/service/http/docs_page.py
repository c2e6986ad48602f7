"""`/docs`: the API as a page, from files of this machine alone (Swagger UI)."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import FileResponse, HTMLResponse, Response
from swagger_ui_bundle import swagger_ui_path  # type: ignore[import-untyped]

from fheinfer.errors import NotFoundError

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_FILES = ("swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png")
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>fheinfer API</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
<link rel="icon" href="docs/favicon-32x32.png">
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</html>
"""
# The page's version knows OpenAPI up to 3.0 by name, and shows what it is given.
_START = """fetch("openapi.json").then(answer => answer.json()).then(spec => {
  SwaggerUIBundle({ spec: { ...spec, openapi: "3.0.3" }, dom_id: "#swagger-ui" });
});
"""
router = APIRouter(include_in_schema=False)


@router.get("/docs")
def page() -> HTMLResponse:
    return HTMLResponse(_PAGE, headers={"Content-Security-Policy": CSP})


@router.get("/docs/start.js")
def start() -> Response:
    return Response(_START, media_type="text/javascript")


@router.get("/docs/{name}")
def file(name: str) -> FileResponse:
    if name not in _FILES:
        raise NotFoundError("no such file")
    return FileResponse(swagger_ui_path / name)

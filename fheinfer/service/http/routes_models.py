"""Models of the service, and what a client needs of a plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import fastapi
from fastapi import APIRouter, Depends
from fastapi.responses import FileResponse

from fheinfer.crypto.client_layers import companion
from fheinfer.crypto.client_spec import FILE_NAME
from fheinfer.service.http.auth import Running, caller
from fheinfer.service.protocol import MODEL_NAME, PREFIX, ModelInfo

PLAN = r"^[0-9a-f]{64}$"
PlanPath = Annotated[str, fastapi.Path(pattern=PLAN, description="SHA-256 (hex) of a plan.")]
BINARY = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
"""How OpenAPI says that an answer is bytes."""
_LAYERS = companion(Path(FILE_NAME)).name
router = APIRouter(prefix=PREFIX, tags=["models"], dependencies=[Depends(caller)])


@router.get("/models", summary="List models")
def models(service: Running) -> list[ModelInfo]:
    return service.catalogue.models()


@router.get("/models/{name}", summary="Describe a model")
def model(name: Annotated[str, fastapi.Path(pattern=MODEL_NAME)], service: Running) -> ModelInfo:
    return service.catalogue.model(name)


@router.get(
    f"/plans/{{plan}}/{FILE_NAME}",
    summary="What a client needs of a plan, byte for byte",
    response_class=FileResponse,
    responses={200: {"content": {"application/json": {"schema": {"type": "object"}}}}},
)
def client_json(plan: PlanPath, service: Running) -> FileResponse:
    return FileResponse(service.catalogue.file(plan, FILE_NAME), media_type="application/json")


@router.get(
    f"/plans/{{plan}}/{_LAYERS}",
    summary="The layers of a split model that the client computes",
    response_class=FileResponse,
    responses={200: BINARY},
)
def client_layers(plan: PlanPath, service: Running) -> FileResponse:
    return FileResponse(service.catalogue.file(plan, _LAYERS), media_type="application/octet-stream")

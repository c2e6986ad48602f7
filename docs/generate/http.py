"""The messages of the service's HTTP interface, from the description that it gives of itself (OpenAPI)."""

from __future__ import annotations

from typing import Any
from unittest.mock import MagicMock


def described() -> dict[str, Any]:
    """The description that `/openapi.json` of a service has; no service has to run for it."""
    from fheinfer.service.http.app import create_app

    return create_app(MagicMock()).openapi()


def messages() -> str:
    """The fields of every message."""
    lines = []
    for name, schema in sorted(described()["components"]["schemas"].items()):
        first, _, rest = schema.get("description", "").partition("\n\n")
        lines += [f"### {name}", "", first.replace("\n", " "), *(["", "```text", rest, "```"] if rest else [])]
        required = set(schema.get("required", ()))
        lines += ["", "| field | type | always there |", "|---|---|---|"]
        for field, kind in schema.get("properties", {}).items():
            lines.append(f"| `{field}` | {_type(kind)} | {'yes' if field in required else ''} |")
        lines.append("")
    return "\n".join(lines)


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(f'"{value}"' for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type(schema['additionalProperties'])}"
    words = {"null": "nothing", "string": "text", "integer": "whole number", "boolean": "true or false"}
    return words.get(schema.get("type", ""), str(schema.get("type", "any")))

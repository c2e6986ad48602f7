"""Notebooks as pages: text and code, without outputs."""

from __future__ import annotations

import json


def as_markdown(notebook: str) -> str:
    """The cells of a notebook's JSON, one after the other."""
    parts = []
    for cell in json.loads(notebook)["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
    return "\n\n".join(parts) + "\n"

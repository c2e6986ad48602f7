"""Logs: a JSON object per line on standard error. Nothing in them is secret, and nothing pairs an address with keys.

A line of a request has its number, the account's number, the method, the template of the path (no ids), the status and
the seconds. Addresses, tokens, key ids and bodies are in none; messages and tracebacks, which may name files, are
shown without.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog
from structlog.types import Processor

_IDS = re.compile(r"fi_[A-Za-z0-9_-]{43}|(?<![0-9a-f])[0-9a-f]{32}([0-9a-f]{32})?(?![0-9a-f])")
"""Tokens, ids and hashes."""


def configure() -> None:
    """Sends what structlog and the standard library log to standard error, from warnings on for other packages."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _without_ids,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer()],
        logger_factory=lambda *names: structlog.PrintLogger(sys.stderr),
    )
    handler = logging.StreamHandler(sys.stderr)
    render: list[Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.JSONRenderer(),
    ]
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=render))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


def _without_ids(logger: Any, method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A line of which only the account's number is an id."""
    shown = {name: _IDS.sub("...", text) for name, text in line.items() if isinstance(text, str) and name != "account"}
    line.update(shown)
    return line

"""Logs: a JSON object per line on standard error. Nothing in them is secret, and nothing pairs an address with keys.

A line of a request has its number, the account's number, the method, the template of the path (no ids), the status and
the seconds. Addresses, tokens, key ids and bodies are in none.
"""

from __future__ import annotations

import logging
import sys

import structlog
from structlog.types import Processor


def configure() -> None:
    """Sends what structlog and the standard library log to standard error, from warnings on for other packages."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
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

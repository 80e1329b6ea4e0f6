"""The log on stderr: a line for people on a terminal, an object a line for programs."""

import logging
import sys
from typing import Literal

from opentelemetry import trace
from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from app.api.record import current_request_id

LogFormat = Literal["auto", "text", "json"]


def set_up_logs(log_format: LogFormat) -> None:
    """Sends the log of all libraries to stderr; to be called once, at the start of the process."""
    handler = logging.StreamHandler(sys.stderr)
    is_text = sys.stderr.isatty() if log_format == "auto" else log_format == "text"
    handler.setFormatter(_text() if is_text else _json())
    handler.addFilter(_add_ids)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.captureWarnings(True)
    logging.getLogger("httpx").setLevel(logging.WARNING)


def _text() -> logging.Formatter:
    return logging.Formatter("%(asctime)s %(levelname)s: %(message)s", "%H:%M:%S")


def _json() -> logging.Formatter:
    return JsonFormatter(
        ["levelname", "name", "message"],
        rename_fields={"levelname": "level", "name": "logger"},
        timestamp="time",
        # uvicorn's message once more, with the escapes of a terminal.
        reserved_attrs=[*RESERVED_ATTRS, "color_message"],
    )


def _add_ids(record: logging.LogRecord) -> bool:
    """Says which request a line belongs to."""
    if (request_id := current_request_id.get()) is not None:
        record.request_id = request_id
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        record.trace_id = trace.format_trace_id(span.trace_id)
    return True

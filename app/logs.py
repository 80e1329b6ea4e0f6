"""The log on stderr: text for a terminal, one JSON object a line for programs; it never blocks the service."""

import logging
import sys
import time
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

from opentelemetry import trace
from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from app.log_lines import LineStream, LineWriter

LogFormat = Literal["auto", "text", "json"]

current_request_id: ContextVar[str | None] = ContextVar("current_request_id", default=None)

# So many warnings of one cause are written in a period; the others are counted.
_MOST_OF_A_CAUSE = 10
_PERIOD_S = 10.0
_MOST_CAUSES = 500
_LONGEST_NAME = 200
# A line for each request, whatever became of it.
_NEVER_REPEATED = frozenset({"app.access"})
# They have a level of their own: OpenVINO's converter raises the level of the root logger for seconds.
_OURS = ("app", "service_models", "uvicorn")
# Characters of a message, and of a traceback.
_LONGEST_TEXT = 32_000


def set_up_logs(log_format: LogFormat) -> None:
    """Sends the log of all libraries to stderr; to be called once, at the start of the process."""
    root = logging.getLogger()
    logging.captureWarnings(True)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if root.handlers:  # the log is set up already
        return
    is_text = sys.stderr.isatty() if log_format == "auto" else log_format == "text"
    writer = LineWriter(sys.stderr.fileno())
    text = logging.Formatter("%(asctime)s %(levelname)s: %(message)s", "%H:%M:%S")
    handler = QueuedHandler(writer, text if is_text else _json())
    handler.addFilter(_add_ids)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for name in _OURS:
        logging.getLogger(name).setLevel(logging.INFO)
    sys.stderr.flush()
    sys.stderr = LineStream(writer).as_text()


def dropped_lines() -> int:
    """How many lines of the log were dropped because nobody read them."""
    return sum(handler.dropped for handler in logging.getLogger().handlers if isinstance(handler, QueuedHandler))


class QueuedHandler(logging.Handler):
    """Formats records in the thread that made them, and has a `LineWriter` write the lines."""

    def __init__(self, writer: LineWriter, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._writer = writer
        self._repetitions = Repetitions()
        writer.notice = self._notice
        writer.when_idle = self._when_idle

    @property
    def dropped(self) -> int:
        """How many lines were never written."""
        return self._writer.dropped

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a record, unless too many with its cause were written."""
        try:
            now = time.monotonic()
            self._write_repetitions(now)
            if not self._repetitions.is_suppressed(record, now):
                self._writer.put(self._line(record))
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Waits until the last lines are written, for a limited time."""
        self.acquire()
        try:
            self._write_repetitions(float("inf"))
        finally:
            self.release()
        self._writer.flush()

    def _line(self, record: logging.LogRecord) -> bytes:
        text = self.format(record)
        if len(text) > _LONGEST_TEXT:
            text = self.format(self._cut(record))
        return (text + "\n").encode("utf-8", "backslashreplace")

    def _cut(self, record: logging.LogRecord) -> logging.LogRecord:
        """The record without the middle of its message and of its traceback."""
        short = logging.makeLogRecord(record.__dict__)
        short.msg, short.args = _without_middle(record.getMessage()), None
        if record.exc_info and self.formatter:
            short.exc_text = _without_middle(self.formatter.formatException(record.exc_info))
            short.exc_info = None
        return short

    def _notice(self, missing: int) -> bytes:
        return self._line(_record(__name__, logging.WARNING, f"{missing:,} lines were dropped: nobody read the log"))

    def _write_repetitions(self, now: float) -> None:
        for record in self._repetitions.ended(now):
            self._writer.put(self._line(record))

    def _when_idle(self) -> None:
        # The owner of the lock may be waiting for this thread.
        if self.lock is not None and self.lock.acquire(blocking=False):
            try:
                self._write_repetitions(time.monotonic())
            finally:
                self.lock.release()


@dataclass(slots=True)
class _Cause:
    """Lines of one logger, level and template."""

    ends: float
    count: int = 0
    latest: str = ""


class Repetitions:
    """Counts warnings of one cause, so that a flood of them becomes one line with their number."""

    def __init__(self) -> None:
        self._causes: dict[tuple[str, int, str], _Cause] = {}
        self._next_end = float("inf")

    def is_suppressed(self, record: logging.LogRecord, now: float) -> bool:
        """Whether enough records of this cause were written; then the record is only counted."""
        if record.levelno < logging.WARNING or record.name in _NEVER_REPEATED:
            return False
        key = (record.name, record.levelno, _first_line(str(record.msg)))
        if (cause := self._causes.get(key)) is None:
            if len(self._causes) >= _MOST_CAUSES:
                return False
            cause = self._causes[key] = _Cause(now + _PERIOD_S)
            self._next_end = min(self._next_end, cause.ends)
        cause.count += 1
        if cause.count <= _MOST_OF_A_CAUSE:
            return False
        cause.latest = _first_line(record.getMessage())
        return True

    def ended(self, now: float) -> Iterator[logging.LogRecord]:
        """Forgets the causes whose period is over; yields a record for each that had too many lines."""
        if now < self._next_end:
            return
        for (name, level, text), cause in list(self._causes.items()):
            if cause.ends > now:
                continue
            del self._causes[name, level, text]
            if (more := cause.count - _MOST_OF_A_CAUSE) > 0:
                message = f"... and {more:,} more of these in the last {_PERIOD_S:g} s: {cause.latest}"
                yield _record(name, level, message)
        self._next_end = min((cause.ends for cause in self._causes.values()), default=float("inf"))


def _without_middle(text: str) -> str:
    half = _LONGEST_TEXT // 2
    return text if len(text) <= _LONGEST_TEXT else f"{text[:half]} ... {text[-half:]}"


def _first_line(text: str) -> str:
    return text.partition("\n")[0][:_LONGEST_NAME]


def _record(name: str, level: int, message: str) -> logging.LogRecord:
    # Not through the logger: the caller may be writing another record.
    return logging.LogRecord(name, level, __file__, 0, message, None, None)


def _json() -> logging.Formatter:
    return JsonFormatter(
        ["levelname", "name", "message"],
        rename_fields={"levelname": "level", "name": "logger"},
        timestamp="time",
        # uvicorn's message once more, with the escapes of a terminal.
        reserved_attrs=[*RESERVED_ATTRS, "color_message"],
    )


def _add_ids(record: logging.LogRecord) -> bool:
    """Adds the ids of the request and the trace to a record."""
    if (request_id := current_request_id.get()) is not None:
        record.request_id = request_id
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        record.trace_id = trace.format_trace_id(span.trace_id)
    return True

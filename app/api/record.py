"""The record of one request, for logs, metrics and traces."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from fastapi import Request, Response
from opentelemetry import trace
from starlette.types import Scope

from app.api.context import runtime_of
from app.schemas import Timing

STAGES = ("decode", "queue", "compute", "render")
# Where a request's scope has its record.
RECORD_KEY = "cam.record"


@dataclass(slots=True)
class Record:
    """One request.

    Attributes:
        request_id: the caller's, or a new one.
        started: when its header had arrived, on the clock of `time.perf_counter`.
        key: the name of the API key that it came with.
        code: of the error that it was answered with.
        facts: further fields of its log line.
    """

    request_id: str
    started: float = field(default_factory=time.perf_counter)
    key: str | None = None
    code: str | None = None
    facts: dict[str, object] = field(default_factory=dict)


def record_of(scope: Scope) -> Record:
    """The record of a request, which the outermost middleware has made."""
    record = scope[RECORD_KEY]
    assert isinstance(record, Record)
    return record


def record_code(scope: Scope, code: str) -> None:
    """Notes the code of an error; nothing where what failed is outside of the middleware that makes records."""
    if RECORD_KEY in scope:
        record_of(scope).code = code


def caller_of(scope: Scope) -> str:
    """The caller of a request: the name of its API key, or its address where there are no keys."""
    if (key := record_of(scope).key) is not None:
        return f"key {key}"
    return str((scope.get("client") or ("",))[0])


def route_of(scope: Scope) -> str:
    """The template of the route that a request took, never what the caller wrote."""
    path = getattr(scope.get("route"), "path", None)
    return path if isinstance(path, str) else "other"


def record_result(request: Request, response: Response, model: str, method: str, timings: list[Timing]) -> Response:
    """Records how long a result took, and adds the header `Server-Timing`.

    Args:
        request: that was answered.
        response: with the result.
        model: the network.
        method: the attribution method; `several` for a comparison, `none` for a prediction.
        timings: of each picture, in milliseconds.
    """
    scope, meters = request.scope, runtime_of(request).meters
    for timing in timings:
        meters.total.labels(route_of(scope), model, method).observe(timing.total / 1e3)
        for stage in STAGES:
            meters.stages[stage].labels(model).observe(getattr(timing, stage) / 1e3)
    longest = max(timings, key=lambda timing: timing.total)
    durations = longest.model_dump()
    response.headers["Server-Timing"] = ", ".join(f"{name};dur={ms:.3f}" for name, ms in durations.items())
    facts = record_of(scope).facts
    facts |= {"model": model, "method": method, "timing_ms": durations}
    if len(timings) > 1:
        facts["pictures"] = len(timings)
    _trace(longest, {"cam.model": model, "cam.method": method})
    return response


def _trace(timing: Timing, attributes: Mapping[str, str]) -> None:
    """Adds a span for each stage to the request's trace, end to end up to now; their lengths were measured."""
    span = trace.get_current_span()
    if not span.is_recording():
        return
    span.set_attributes(attributes)
    tracer = trace.get_tracer("app")
    start_ns = time.time_ns() - int(1e6 * sum(getattr(timing, stage) for stage in STAGES))
    for stage in STAGES:
        end_ns = start_ns + int(1e6 * getattr(timing, stage))
        tracer.start_span(stage, start_time=start_ns, attributes=attributes).end(end_ns)
        start_ns = end_ns

"""A collector of traces, as OpenTelemetry's exporters find one: OTLP over HTTP."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

_WAIT_S = 60


class Collector:
    """What arrived.

    Attributes:
        url: where it listens.
        paths: what was posted to.
        spans: in order of arrival.
        services: the names that the exporters gave themselves.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.paths: set[str] = set()
        self.spans: list[Span] = []
        self.services: set[str] = set()
        self.arrival = threading.Condition()

    def trace(self, trace_id: str, last: str) -> dict[str, Span]:
        """The spans of a trace by name, once the one that ends last has come."""

        def found() -> dict[str, Span]:
            return {span.name: span for span in self.spans if span.trace_id.hex() == trace_id}

        with self.arrival:
            assert self.arrival.wait_for(lambda: last in found(), _WAIT_S), found()
            return found()


@contextmanager
def collecting() -> Iterator[Collector]:
    """Listens on a free port until the context ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with collector.arrival:
                collector.paths.add(self.path)
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    names = {item.key: item.value.string_value for item in resource.resource.attributes}
                    collector.services.add(names["service.name"])
                    collector.spans.extend(span for scope in resource.scope_spans for span in scope.spans)
                collector.arrival.notify_all()
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector = Collector(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

"""A model hub on this machine: plain files, and files of a repository with the headers that its client reads."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Mirror:
    """What the server answers with, and what it was asked.

    Attributes:
        url: scheme, host and port.
        files: paths to contents.
        digests: paths to the SHA-256 that is stated in place of the true one.
        requests: "METHOD path", in order.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.files: dict[str, bytes] = {}
        self.digests: dict[str, str] = {}
        self.requests: list[str] = []
        self.status = 200


@contextmanager
def serve() -> Iterator[Mirror]:
    """Runs the server in a thread on a free port of 127.0.0.1."""

    class MirrorHandler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            mirror.requests.append(f"{self.command} {self.path}")
            content = mirror.files.get(self.path)
            status = mirror.status if content is not None else 404
            digest = mirror.digests.get(self.path) or hashlib.sha256(content or b"").hexdigest()
            self.send_response(status)
            if content is None:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("ETag", f'"{digest}"')
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            if body and content:
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), MirrorHandler)
    mirror = Mirror(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield mirror
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

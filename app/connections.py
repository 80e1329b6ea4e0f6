"""Closes connections whose request does not arrive, or is excessive, or whose reply the caller does not read."""

import asyncio
import json
import logging
import socket
import struct
from collections.abc import Iterable
from itertools import islice
from uuid import uuid4

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.api.security import NOTHING, TRUST_NOTHING
from app.listening import SPARE_PART

_LOG = logging.getLogger(__name__)

# From the opening of a connection, or the last answer on it, to the end of a request's header.
_HEADER_S = 20.0
# A connection is closed whose caller has read nothing of a reply for so long.
_UNREAD_S = 15.0
# Where descriptors run out, so many waiting connections are compared, and those that waited longest are closed.
_COMPARED = 64
# Request line and fields of one request, trailers included.
_MOST_HEADER_BYTES = 2**15
_MOST_HEADERS = 256
# Each piece of a body (a chunk, or the bytes of one read) costs the event loop about a microsecond, however small it
# is. So many pieces are free; with more, they must have so many bytes on average.
_FREE_PIECES = 4096
_SMALLEST_PIECE_BYTES = 16
# Requests that a caller may send before the first is answered.
_MOST_WAITING = 16


class _ExcessiveRequest(Exception):  # never leaves the parser, which turns it into an error of its own
    """A request has too many headers, pieces or followers."""


class TimeLimitedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with limits of time and size.

    uvicorn waits for ever for the header of a first request, and for a reply to be read. Its parser, llhttp, limits
    neither headers, nor chunks, nor the requests that wait.
    """

    _header_timer: asyncio.TimerHandle | None = None
    _unread_timer: asyncio.TimerHandle | None = None
    # Of the request that is being received.
    _is_receiving = False
    _has_header = False
    _wants_upgrade = False
    _header_bytes = 0
    _header_count = 0
    _body_bytes = 0
    _pieces = 0
    # Bytes so far that are not of the body: header, chunk lengths with their extensions, trailers.
    _other_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts to wait for a header."""
        super().connection_made(transport)
        self._wait_for_header()

    def data_received(self, data: bytes) -> None:
        """Parses data, and refuses a request that has too much besides its body."""
        self._other_bytes += len(data)
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._wants_upgrade:
                self._read_again(data[upgrade.args[0] :])
                return
        except httptools.HttpParserError:
            self.send_400_response("the request is no HTTP that is taken")
            return
        if self._other_bytes > _MOST_HEADER_BYTES + self._body_bytes and not self.transport.is_closing():
            self.send_400_response("the header, or what frames the body, is too long")

    def on_message_begin(self) -> None:
        """Resets the counters."""
        if len(self.pipeline) >= _MOST_WAITING:
            raise _ExcessiveRequest
        super().on_message_begin()
        self._is_receiving, self._has_header = True, False
        self._header_bytes = self._header_count = self._body_bytes = self._pieces = 0

    def on_url(self, url: bytes) -> None:
        """Counts the bytes of the request line."""
        self._count_header(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Counts a header field or a trailer; trailers are otherwise ignored."""
        self._header_count += 1
        self._count_header(len(name) + len(value))
        if not self._has_header:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Notes that the header is complete."""
        self._has_header = True
        self._wants_upgrade = self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
        if not self._wants_upgrade:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Counts a piece of the body."""
        self._pieces += 1
        self._body_bytes += len(body)
        self._other_bytes -= len(body)
        if self._pieces > _FREE_PIECES and self._body_bytes < _SMALLEST_PIECE_BYTES * self._pieces:
            raise _ExcessiveRequest
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Notes that the request is complete."""
        self._is_receiving = False
        self._other_bytes = 0
        if not self._wants_upgrade:
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answers a request that cannot be parsed, after the requests before it, and closes the connection."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if not (self._is_receiving and cycle.more_body):
                # The request before this one is still to be answered.
                cycle.keep_alive = False
                return
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started or self.pipeline:
                self.transport.close()
                return
        self.transport.write(_refusal(msg))
        self.transport.close()

    def on_response_complete(self) -> None:
        """Starts the timer for the next header."""
        super().on_response_complete()
        self._wait_for_header()

    def pause_writing(self) -> None:
        """Starts the timer for a caller who reads more slowly than the reply is written."""
        super().pause_writing()
        self._wait_for_reader()

    def resume_writing(self) -> None:
        """Stops the timer for the caller."""
        super().resume_writing()
        self._cancel(self._unread_timer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops all timers."""
        super().connection_lost(exc)
        self._cancel(self._header_timer)
        self._cancel(self._unread_timer)

    @property
    def waiting_since(self) -> float | None:
        """When it began to wait for a header, on the clock of its loop; None while it has a request."""
        is_answered = self.cycle is None or self.cycle.response_complete
        if self._header_timer is None or not is_answered or self.transport.get_write_buffer_size():
            return None
        return self._header_timer.when() - _HEADER_S

    def _read_again(self, rest: bytes) -> None:
        """Parses a request again without its wish for another protocol: the service has no other.

        The parser takes what follows its header for that protocol, and not for a body.
        """
        line = b" ".join((self.parser.get_method(), self.url, b"HTTP/" + self.parser.get_http_version().encode()))
        kept = [b"%s: %s" % field for field in self.headers if field[0] not in {b"upgrade", b"connection"}]
        connection = b",".join(value for name, value in self.headers if name == b"connection")
        options = [option.strip() for option in connection.split(b",") if option.strip().lower() != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.data_received(b"\r\n".join([line, *kept, b"Connection: " + b", ".join(options), b"", rest]))

    def _count_header(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > _MOST_HEADER_BYTES or self._header_count > _MOST_HEADERS:
            raise _ExcessiveRequest

    def _wait_for_header(self) -> None:
        self._cancel(self._header_timer)
        self._header_timer = self.loop.call_later(_HEADER_S, self._close_if_idle)

    def _close_if_idle(self) -> None:
        # A request that is being answered has its own time limit.
        if self.cycle is not None and not self.cycle.response_complete:
            return
        if self.transport.is_closing():
            # The caller has not read the rest of the last reply in all this time.
            self._reset()
        else:
            self.transport.close()
            self._wait_for_header()

    def _wait_for_reader(self) -> None:
        self._cancel(self._unread_timer)
        unread = self.transport.get_write_buffer_size()
        self._unread_timer = self.loop.call_later(_UNREAD_S, self._abort_if_unread, unread)

    def _abort_if_unread(self, before: int) -> None:
        if self.transport.get_write_buffer_size() < before:
            self._wait_for_reader()
        else:
            self._reset()

    def _reset(self) -> None:
        """Closes the connection at once; else the system would keep the rest of the reply for minutes."""
        connection = self.transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    @staticmethod
    def _cancel(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()


def _refusal(message: str) -> bytes:
    """The reply to a request that cannot be parsed, in the form of all errors."""
    body = json.dumps({"error": message, "code": "malformed_body", "detail": {}}, separators=(",", ":"))
    headers = {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Connection": "close",
        "X-Request-ID": uuid4().hex,
        "Content-Security-Policy": NOTHING,
        **TRUST_NOTHING,
    }
    lines = ["HTTP/1.1 400 Bad Request", *(f"{name}: {value}" for name, value in headers.items()), "", body]
    return "\r\n".join(lines).encode("ascii")


def close_idle(connections: Iterable[object]) -> None:
    """Closes connections that have had no request for the longest time, so that others can connect."""
    known = (each for each in connections if isinstance(each, TimeLimitedProtocol) and not each.transport.is_closing())
    waiting = ((each.waiting_since, each) for each in known)
    some = islice(((since, each) for since, each in waiting if since is not None), _COMPARED)
    longest = sorted(some, key=lambda pair: pair[0])[:SPARE_PART]
    for _, each in longest:
        each.transport.abort()
    _LOG.warning("descriptors run out: %d connections without a request were closed", len(longest))

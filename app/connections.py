"""Closes connections whose request does not arrive, or whose reply nobody takes."""

import asyncio
import socket
import struct

from uvicorn.protocols.http.h11_impl import H11Protocol

# From the opening of a connection, or the last answer on it, to the end of a request's header.
_HEADER_S = 20.0
# A reply of which nothing was taken for so long is not offered any longer.
_UNREAD_S = 15.0


class ImpatientProtocol(H11Protocol):
    """uvicorn's own, which waits for ever for the header of a first request, and for a reply to be read."""

    _header_timer: asyncio.TimerHandle | None = None
    _unread_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts to wait for a header."""
        super().connection_made(transport)
        self._wait_for_header()

    def on_response_complete(self) -> None:
        """Starts to wait for the next one."""
        super().on_response_complete()
        self._wait_for_header()

    def pause_writing(self) -> None:
        """Starts to wait for the caller, who does not read as fast as the reply is written."""
        super().pause_writing()
        self._wait_for_reader()

    def resume_writing(self) -> None:
        """Waits no longer."""
        super().resume_writing()
        self._cancel(self._unread_timer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Waits for nothing any more."""
        super().connection_lost(exc)
        self._cancel(self._header_timer)
        self._cancel(self._unread_timer)

    def _wait_for_header(self) -> None:
        self._cancel(self._header_timer)
        self._header_timer = self.loop.call_later(_HEADER_S, self._close_if_idle)

    def _close_if_idle(self) -> None:
        # A request that is being answered has its own time limit.
        if self.cycle is not None and not self.cycle.response_complete:
            return
        if self.transport.is_closing():
            # What is left of the last reply has waited all the time.
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
        """Ends the connection at once; without this the system would offer what is left for minutes more."""
        connection = self.transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    @staticmethod
    def _cancel(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()

"""Closes connections whose request does not arrive."""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

# From the opening of a connection, or the last answer on it, to the end of a request's header.
_HEADER_S = 20.0


class ImpatientProtocol(H11Protocol):
    """uvicorn's own, which waits for ever for the header of a connection's first request."""

    _header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts to wait for a header."""
        super().connection_made(transport)
        self._wait_for_header()

    def on_response_complete(self) -> None:
        """Starts to wait for the next one."""
        super().on_response_complete()
        self._wait_for_header()

    def connection_lost(self, exc: Exception | None) -> None:
        """Waits no longer."""
        super().connection_lost(exc)
        if self._header_timer is not None:
            self._header_timer.cancel()

    def _wait_for_header(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
        self._header_timer = self.loop.call_later(_HEADER_S, self._close_if_idle)

    def _close_if_idle(self) -> None:
        # A request that is being answered has its own time limit.
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()

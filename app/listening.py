"""Binds the port and accepts connections; imports nothing heavy, so that a taken port is reported at once."""

import asyncio
import errno
import resource
import socket
from collections.abc import Callable

# asyncio would accept 2,048 connections before it looks at any of them.
_ACCEPTED_AT_ONCE = 4
# One part in so many of the descriptors is kept for files, pictures and child processes.
SPARE_PART = 4


class ListeningSocket(socket.socket):
    """Accepts a few connections at a time, and closes idle ones before descriptors run out.

    Attributes:
        close_idle: closes `SPARE_PART` idle connections or more.
    """

    close_idle: Callable[[], None] = staticmethod(lambda: None)
    _accepted = 0

    def accept(self) -> tuple[socket.socket, object]:
        """Takes the next connection.

        Raises:
            BlockingIOError: there is none, or others come first in this turn of the event loop.
            OSError: no descriptor is left; asyncio then waits for a second.
        """
        if self._accepted == _ACCEPTED_AT_ONCE:
            raise BlockingIOError
        if self._accepted == 0:
            asyncio.get_running_loop().call_soon(self._begin_turn)
        self._accepted += 1
        try:
            connection, address = super().accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                # asyncio would try, and complain, 2,048 times.
                self._accepted = _ACCEPTED_AT_ONCE
                self.close_idle()
            raise
        if _are_scarce(connection):
            self.close_idle()
        return connection, address

    def _begin_turn(self) -> None:
        self._accepted = 0


def _are_scarce(connection: socket.socket) -> bool:
    """Whether only the spare descriptors are left; a connection gets the lowest one that is free.

    A closed connection frees a low number, which the next connection gets, and that one closes no other. Therefore
    `SPARE_PART` connections are closed for each one that gets a high number.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return limit != resource.RLIM_INFINITY and connection.fileno() >= limit - limit // SPARE_PART


def bind(host: str, port: int) -> list[ListeningSocket]:
    """Binds a port on all addresses of a host; nobody can connect before the sockets listen.

    Args:
        host: a name or an address; empty for all of this machine.
        port: 0 takes a free one, the same on all addresses.

    Raises:
        OSError: the port is taken, or the host is not this machine.
    """
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[ListeningSocket] = []
    missing: OSError | None = None
    for family, kind, protocol, _, (address, number, *scope) in dict.fromkeys(found):
        number = sockets[0].getsockname()[1] if sockets else number
        try:
            sockets.append(_bound(ListeningSocket(family, kind, protocol), (address, number, *scope)))
        except OSError as error:
            # A name may have an address of IPv6 on a system without IPv6.
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                for other in sockets:
                    other.close()
                raise
            missing = error
    if missing and not sockets:
        raise missing
    return sockets


def cannot_listen(host: str, port: int, error: Exception) -> str:
    """The message to an operator whose port cannot be bound."""
    reason = getattr(error, "strerror", None) or str(error)
    return f"cannot start: CAM_HOST={host}, CAM_PORT={port}: {reason.lower()}"


def _bound(unbound: ListeningSocket, address: tuple[object, ...]) -> ListeningSocket:
    try:
        unbound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if unbound.family == socket.AF_INET6:
            unbound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        unbound.bind(address)
    except OSError:
        unbound.close()
        raise
    return unbound

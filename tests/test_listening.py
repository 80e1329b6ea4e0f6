"""The port: taken at once, on all addresses of a host, and given to few connections at a time."""

import asyncio
import errno
import resource
import socket
from collections.abc import Iterator

import pytest

from app.listening import ListeningSocket, bind


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield int(listening.getsockname()[1])


def has_ipv6() -> bool:
    try:
        bind("::1", 0)[0].close()
    except OSError:
        return False
    return True


def test_a_taken_port_is_refused(taken: int) -> None:
    with pytest.raises(OSError, match="in use") as caught:
        bind("127.0.0.1", taken)
    assert caught.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize("host", ["nosuch.invalid", "192.0.2.1", "a" * 70])
def test_what_is_no_host_of_this_machine_is_refused(host: str) -> None:
    with pytest.raises((OSError, UnicodeError)):
        bind(host, 0)


EVERYWHERE = "0.0.0.0"  # noqa: S104


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "", EVERYWHERE])
def test_a_host_is_bound_on_all_its_addresses_and_one_port_and_refuses_until_it_listens(host: str) -> None:
    sockets = bind(host, 0)
    (port,) = {bound.getsockname()[1] for bound in sockets}
    addresses = {bound.getsockname()[0] for bound in sockets}
    assert addresses & {"127.0.0.1", EVERYWHERE}
    assert ("::" in addresses) == (host == "" and has_ipv6())
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=10)
    for bound in sockets:
        bound.listen()
    socket.create_connection(("127.0.0.1", port), timeout=10).close()
    for bound in sockets:
        bound.close()


def test_few_connections_are_taken_in_one_turn_and_all_in_the_end() -> None:
    async def accept(count: int) -> list[int]:
        turns: list[int] = []
        (listening,) = bind("127.0.0.1", 0)
        listening.listen(count)
        listening.setblocking(False)
        with listening:
            callers = [socket.create_connection(listening.getsockname()) for _ in range(count)]
            while sum(turns) < count:
                turns.append(0)
                try:
                    while True:
                        listening.accept()[0].close()
                        turns[-1] += 1
                except BlockingIOError:
                    await asyncio.sleep(0)
            for caller in callers:
                caller.close()
        return turns

    assert asyncio.run(accept(10)) == [4, 4, 2]


async def outcomes_of(listening: ListeningSocket, times: int) -> list[int | None]:
    """The errors of that many attempts in one turn; 0 where there was none."""
    outcomes: list[int | None] = []
    for _ in range(times):
        try:
            listening.accept()[0].close()
            outcomes.append(0)
        except OSError as error:
            outcomes.append(error.errno)
    await asyncio.sleep(0)
    return outcomes


def test_a_lack_of_descriptors_is_said_once_a_turn_and_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_self: socket.socket) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    async def accept(listening: ListeningSocket) -> list[list[int | None]]:
        return [await outcomes_of(listening, 3) for _ in range(2)]

    made: list[int] = []
    monkeypatch.setattr(socket.socket, "accept", fail)
    (listening,) = bind("127.0.0.1", 0)
    with listening:
        listening.close_idle = lambda: made.append(1)
        assert asyncio.run(accept(listening)) == [[errno.EMFILE, None, None]] * 2
    assert len(made) == 2


@pytest.mark.parametrize(("limit", "makes_room"), [(resource.RLIM_INFINITY, False), (65536, False), (8, True)])
def test_the_last_quarter_of_the_descriptors_is_left_to_others(
    monkeypatch: pytest.MonkeyPatch, limit: int, makes_room: bool
) -> None:
    made: list[int] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    (listening,) = bind("127.0.0.1", 0)
    with listening:
        listening.listen()
        listening.close_idle = lambda: made.append(1)
        with socket.create_connection(listening.getsockname()):
            assert asyncio.run(outcomes_of(listening, 1)) == [0]
    assert bool(made) is makes_room

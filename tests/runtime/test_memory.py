"""Memory goes back to the system when a burst is over."""

import asyncio
import ctypes
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from app.runtime.memory import Trimmer, resident_bytes, settle, trim
from app.runtime.runtime import Runtime
from app.settings import Settings
from tests.runtime.pools import until

MIB = 2**20


def test_it_trims_when_the_process_has_grown() -> None:
    resident, trims = [1000 * MIB], []
    trimmer = Trimmer(lambda: resident[0], lambda: trims.append(resident.pop()) or resident.append(1010 * MIB))
    assert not trimmer.has_grown()
    resident[0] = 1100 * MIB
    assert trimmer.has_grown()
    trimmer.run()
    assert trims == [1100 * MIB]
    resident[0] = 1040 * MIB
    assert not trimmer.has_grown(), "what was left is in use"


def test_where_the_system_does_not_tell_nothing_is_done() -> None:
    assert not Trimmer(lambda: None).has_grown()


@contextmanager
def much_freed() -> Iterator[Callable[[], None]]:
    """Memory that the allocator has, and the call that frees it: its heap cannot shrink from its end by itself."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    pieces = [libc.malloc(60_000) for _ in range(4000)]
    for piece in pieces:
        ctypes.memset(piece, 1, 60_000)
    yield lambda: [libc.free(piece) for piece in pieces[:-1]]
    libc.free(pieces[-1])


def resident() -> int:
    found = resident_bytes()
    assert found is not None
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_what_was_freed_is_given_back() -> None:
    with much_freed() as free:
        free()
        before = resident()
        trim()
        assert before - resident() > 150 * MIB


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
@pytest.mark.parametrize("others", [0, 1], ids=["no other follows", "others follow without a pause"])
def test_what_a_burst_leaves_is_given_back(monkeypatch: pytest.MonkeyPatch, others: int) -> None:
    monkeypatch.setattr("app.runtime.runtime.CHECK_EVERY_S", 0.2)

    async def ask() -> None:
        runtime = Runtime(Settings())

        async def without_pause() -> None:
            while True:
                with runtime.admitted():
                    await asyncio.sleep(0.01)

        with much_freed() as free:
            with runtime.admitted():
                free()
                before = resident()
            callers = [asyncio.create_task(without_pause()) for _ in range(others)]
            await until(lambda: before - resident() > 150 * MIB)
            for caller in callers:
                caller.cancel()
            await asyncio.gather(*callers, return_exceptions=True)
        runtime.close()

    asyncio.run(ask())


def test_the_collector_does_not_look_again_at_what_lives_when_the_start_ends() -> None:
    living = [[number] for number in range(10_000)]
    try:
        settle()
        garbage: list[object] = []
        garbage.append(garbage)
        assert not {id(each) for each in gc.get_objects()} & {id(each) for each in living}
        del garbage
        assert gc.collect() == 1
    finally:
        gc.unfreeze()

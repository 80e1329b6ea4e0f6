"""Memory goes back to the system when a burst is over."""

import ctypes
import gc
import sys

import pytest

from app.runtime import memory
from app.runtime.memory import Trimmer, resident_bytes, settle, trim

MIB = 2**20


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(memory.time, "monotonic", lambda: now[0])
    return now


def test_it_trims_when_the_process_has_grown_and_seldom(clock: list[float]) -> None:
    resident, trims = [1000 * MIB], []
    trimmer = Trimmer(lambda: resident[0], lambda: trims.append(resident.pop()) or resident.append(1010 * MIB))
    clock[0] = 11
    assert not trimmer.is_due(), "it has not grown"
    resident[0] = 1100 * MIB
    assert not trimmer.is_due(), "it was asked just now"
    clock[0] = 22
    assert trimmer.is_due()
    trimmer.run()
    assert trims == [1100 * MIB]
    clock[0] = 33
    resident[0] = 1040 * MIB
    assert not trimmer.is_due(), "what was left is in use"


def test_where_the_system_does_not_tell_nothing_is_done(clock: list[float]) -> None:
    trimmer = Trimmer(lambda: None)
    clock[0] = 100
    assert not trimmer.is_due()


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_what_was_freed_is_given_back() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    # Small pieces of which the last is kept: the heap cannot shrink from its end.
    pieces = [libc.malloc(60_000) for _ in range(4000)]
    for piece in pieces:
        ctypes.memset(piece, 1, 60_000)
    for piece in pieces[:-1]:
        libc.free(piece)
    before = resident_bytes()
    trim()
    after = resident_bytes()
    libc.free(pieces[-1])
    assert before is not None
    assert after is not None
    assert before - after > 150 * MIB


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

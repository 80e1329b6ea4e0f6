"""A posted picture harms nothing but its own request, whatever it does to the process that reads it."""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from app.errors import WorkerFailed
from app.imaging.errors import ImageUnreadable
from app.runtime.decoder import BrokenDecoder
from app.runtime.decoding import Reading
from tests.imaging.pictures import encoded, noise
from tests.runtime.pools import PHOTO, decoders, read, run, until


def test_a_child_that_is_killed_fails_its_request_and_no_other() -> None:
    async def ask() -> None:
        async with decoders(2) as pool:
            await pool.start()
            victim = min(pool.children.pids)
            # It takes a picture, and gets no further.
            os.kill(victim, signal.SIGSTOP)
            requests = [asyncio.create_task(read(pool, PHOTO)) for _ in range(8)]
            await until(lambda: sum(request.done() for request in requests) == 7)
            (hanging,) = (request for request in requests if not request.done())
            os.kill(victim, signal.SIGKILL)
            with pytest.raises(WorkerFailed, match="was killed"):
                await hanging
            for request in requests:
                assert request is hanging or isinstance(request.result(), Reading)
            await until(lambda: pool.children.idle == 2)
            assert victim not in pool.children.pids
            await asyncio.gather(*(read(pool, PHOTO) for _ in range(4)))
            assert len(pool.children.pids) == 2

    run(ask())


@pytest.mark.parametrize(
    ("sign", "error", "message"),
    [(signal.SIGKILL, WorkerFailed, "was killed"), (signal.SIGSEGV, ImageUnreadable, "broke its decoder")],
)
def test_a_child_that_dies_in_the_midst_of_decoding_fails_its_request_only(
    sign: signal.Signals, error: type[Exception], message: str
) -> None:
    slow = encoded(noise(3000, 4000, 3), "PNG", compress_level=1)

    async def ask() -> None:
        async with decoders(1) as pool:
            await pool.start()
            for delay_s in (0.0, 0.02, 0.05, 0.1):
                request = asyncio.create_task(read(pool, slow))
                await until(lambda: pool.children.idle == 0)
                await asyncio.sleep(delay_s)
                (victim,) = pool.children.pids
                os.kill(victim, sign)
                with pytest.raises(error, match=message):
                    await request
                assert isinstance(await read(pool, PHOTO), Reading)

    run(ask())


def test_a_child_that_dies_between_pictures_fails_none() -> None:
    async def ask() -> None:
        async with decoders(1) as pool:
            await read(pool, PHOTO)
            (victim,) = pool.children.pids
            os.kill(victim, signal.SIGKILL)
            await asyncio.sleep(0.1)
            await read(pool, PHOTO)
            assert pool.children.pids
            assert pool.children.pids != {victim}

    run(ask())


def test_a_decoder_that_hangs_is_killed_at_its_limit() -> None:
    async def ask() -> None:
        async with decoders(1, limit_s=0.5) as pool:
            await pool.start()
            (victim,) = pool.children.pids
            os.kill(victim, signal.SIGSTOP)
            started = time.monotonic()
            with pytest.raises(ImageUnreadable, match=r"took longer than 0\.5 s to decode"):
                await read(pool, PHOTO)
            assert 0.4 < time.monotonic() - started < 10
            await until(lambda: pool.children.idle == 1)
            assert victim not in pool.children.pids

    run(ask())


SAYS = """
import json, os, pickle, socket, struct, sys, time
connection = socket.socket(fileno=0).makefile("rwb")
def say(message):
    raw(json.dumps(message).encode())
def raw(text, length=None):
    connection.write(struct.pack(">I", len(text) if length is None else length) + text)
    connection.flush()
def hear():
    (length,) = struct.unpack(">I", connection.read(4))
    return json.loads(connection.read(length))
class Trap:
    def __reduce__(self):
        return (open, ({trap!r}, "w"))
say({{"ready": True}})
while True:
    connection.read(hear()["bytes"])
    {answer}
    hear()
"""
SIZE = 'say({"width": 451, "height": 300}); hear(); '
ANSWERS = {
    "noise": "raw(bytes(range(256)))",
    "a pickle": "raw(pickle.dumps(Trap()))",
    "a pickle for pixels": SIZE + 'say({"format": pickle.dumps(Trap()).hex(), "width": 451, "height": 300})',
    "a list": "say([1, 2, 3])",
    "deep nesting": 'raw(b"[" * 4000)',
    "an endless message": 'raw(b"", 2**32 - 1)',
    "nothing, and the end": "sys.exit()",
    "a crash": "os.abort()",
    "half a message": 'raw(b"{", 2); sys.exit()',
    "an unknown error": 'say({"error": "SystemExit"})',
    "an error of endless size": 'say({"error": "TooManyPixels", "width": 10**1500, "height": 10**1500})',
    "no size": "say({})",
    "too large a picture": 'say({"width": 65000, "height": 65000})',
    "no format": SIZE + 'say({"width": 451, "height": 300})',
    "a format that is none": SIZE + 'say({"format": ["JPEG"], "width": 451, "height": 300})',
    "another size": SIZE + 'say({"format": "JPEG", "width": 450, "height": 300})',
    "too few pixels": SIZE + 'say({"format": "JPEG", "width": 451, "height": 300}); raw(bytes(1000)); sys.exit()',
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_child_that_talks_nonsense_fails_its_request_and_nothing_it_says_is_executed(
    answer: str, tmp_path: Path
) -> None:
    trap = tmp_path / "executed"
    program = (sys.executable, "-c", SAYS.format(trap=str(trap), answer=ANSWERS[answer]))

    async def ask() -> None:
        async with decoders(1, program=program) as pool:
            await pool.start()
            before = pool.children.pids
            with pytest.raises(ImageUnreadable, match="broke its decoder"):
                await read(pool, PHOTO)
            await until(lambda: pool.children.idle == 1)
            assert not before & pool.children.pids

    run(ask())
    assert not trap.exists()


def test_a_child_that_does_not_start_is_said_to_whoever_needs_it_and_blocks_nobody() -> None:
    async def ask() -> None:
        async with decoders(1, program=(sys.executable, "-c", "")) as pool:
            for _ in range(2):
                with pytest.raises(WorkerFailed, match="no decoder can be started"):
                    await read(pool, PHOTO)
        async with decoders(1, program=("/nowhere",)) as pool:
            with pytest.raises(BrokenDecoder, match="does not start"):
                await pool.start()

    run(ask())

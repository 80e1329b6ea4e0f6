"""A posted picture harms nothing but its own request, whatever it does to the process that reads it."""

import asyncio
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from app.errors import ImageUnreadable, WorkerFailed
from app.runtime import picture_request
from app.runtime.image_process import BrokenProcess
from testing.pictures import encoded, noise
from tests.runtime.pools import PHOTO, Read, image_processes, read, run, until

SLOW = encoded(noise(3000, 4000, 3), "PNG", compress_level=1)


def test_work_whose_process_is_killed_is_done_again_and_no_other_is_disturbed() -> None:
    async def ask() -> None:
        async with image_processes(2) as images:
            await images.pool.start()
            victim = min(images.pool.pids)
            # It takes a picture, and gets no further.
            os.kill(victim, signal.SIGSTOP)
            requests = [asyncio.create_task(read(images, PHOTO)) for _ in range(8)]
            await until(lambda: sum(request.done() for request in requests) == 7)
            os.kill(victim, signal.SIGKILL)
            for request in requests:
                assert isinstance(await request, Read)
            await until(lambda: images.pool.idle == 2)
            assert victim not in images.pool.pids
            await asyncio.gather(*(read(images, PHOTO) for _ in range(4)))
            assert len(images.pool.pids) == 2

    run(ask())


def test_work_that_loses_one_process_after_the_other_is_worth_another_try() -> None:
    async def ask() -> None:
        async with image_processes(1) as images:
            await images.pool.start()
            request = asyncio.create_task(read(images, SLOW))
            while not request.done():
                for victim in images.pool.pids:
                    with suppress(ProcessLookupError):  # it has just been replaced
                        os.kill(victim, signal.SIGKILL)
                await asyncio.sleep(0.05)
            with pytest.raises(WorkerFailed, match=r"were killed|can be started") as caught:
                await request
            assert caught.value.headers["Retry-After"] == "1"
            assert isinstance(await read(images, PHOTO), Read)

    run(ask())


def test_a_process_that_breaks_in_the_midst_of_decoding_fails_its_request_only() -> None:
    async def ask() -> None:
        async with image_processes(1) as images:
            await images.pool.start()
            for delay_s in (0.0, 0.02, 0.05, 0.1):
                request = asyncio.create_task(read(images, SLOW))
                await until(lambda: images.pool.idle == 0)
                await asyncio.sleep(delay_s)
                (victim,) = images.pool.pids
                os.kill(victim, signal.SIGSEGV)
                with pytest.raises(ImageUnreadable, match="crashed its decoder"):
                    await request
                assert isinstance(await read(images, PHOTO), Read)

    run(ask())


def test_a_child_that_dies_between_pictures_fails_none() -> None:
    async def ask() -> None:
        async with image_processes(1) as images:
            await read(images, PHOTO)
            (victim,) = images.pool.pids
            os.kill(victim, signal.SIGKILL)
            await asyncio.sleep(0.1)
            await read(images, PHOTO)
            assert images.pool.pids
            assert images.pool.pids != {victim}

    run(ask())


def test_a_picture_whose_process_stands_still_is_read_by_another() -> None:
    async def ask() -> None:
        async with image_processes(1, stall_s=0.5) as images:
            await images.pool.start()
            (victim,) = images.pool.pids
            os.kill(victim, signal.SIGSTOP)
            started = time.monotonic()
            assert isinstance(await read(images, PHOTO), Read)
            assert time.monotonic() - started > 0.4
            await until(lambda: images.pool.idle == 1)
            assert victim not in images.pool.pids

    run(ask())


def test_a_picture_that_uses_up_its_processor_time_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_WORK_S", "_WORK_S_A_MEGAPIXEL", "_WORK_S_A_MEGABYTE"):
        monkeypatch.setattr(picture_request, name, 0.001)

    async def ask() -> None:
        async with image_processes(1) as images:
            with pytest.raises(ImageUnreadable, match=r"took more than 0\.0\d+ s of processor time"):
                await read(images, SLOW)
            assert images.broken == 0

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
SIZE = 'say({"format": "JPEG", "width": 451, "height": 300}); hear(); '
ANSWERS = {
    "noise": "raw(bytes(range(256)))",
    "a pickle": "raw(pickle.dumps(Trap()))",
    "a pickle for pixels": SIZE + 'say({"width": 451, "height": 300}); raw(pickle.dumps(Trap())); sys.exit()',
    "a list": "say([1, 2, 3])",
    "deep nesting": 'raw(b"[" * 4000)',
    "an endless message": 'raw(b"", 2**32 - 1)',
    "nothing, and the end": "sys.exit()",
    "a crash": "os.abort()",
    "half a message": 'raw(b"{", 2); sys.exit()',
    "an unknown error": 'say({"error": "SystemExit"})',
    "an error of endless size": 'say({"error": "TooManyPixels", "width": 10**1500, "height": 10**1500})',
    "no size": "say({})",
    "too large a picture": 'say({"format": "JPEG", "width": 65000, "height": 65000})',
    "no format": 'say({"width": 451, "height": 300})',
    "a format that is none": 'say({"format": ["JPEG"], "width": 451, "height": 300})',
    "another size": SIZE + 'say({"width": 450, "height": 300})',
    "too few pixels": SIZE + 'say({"width": 451, "height": 300}); raw(bytes(1000)); sys.exit()',
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_child_that_talks_nonsense_fails_its_request_and_nothing_it_says_is_executed(
    answer: str, tmp_path: Path
) -> None:
    trap = tmp_path / "executed"
    program = (sys.executable, "-c", SAYS.format(trap=str(trap), answer=ANSWERS[answer]))

    async def ask() -> None:
        async with image_processes(1, program=program) as images:
            await images.pool.start()
            before = images.pool.pids
            with pytest.raises(ImageUnreadable, match="crashed its decoder"):
                await read(images, PHOTO)
            await until(lambda: images.pool.idle == 1)
            assert not before & images.pool.pids

    run(ask())
    assert not trap.exists()


def test_a_child_that_does_not_start_is_said_to_whoever_needs_it_and_blocks_nobody() -> None:
    async def ask() -> None:
        async with image_processes(1, program=(sys.executable, "-c", "")) as images:
            for _ in range(2):
                with pytest.raises(WorkerFailed, match="no image process can be started"):
                    await read(images, PHOTO)
        async with image_processes(1, program=("/nowhere",)) as images:
            with pytest.raises(BrokenProcess, match="does not start"):
                await images.pool.start()

    run(ask())

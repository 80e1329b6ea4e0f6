"""What machines do to a service: workers that die, memory that is short, clocks that jump, children that are killed."""

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx

from testing.faults.preload import SCARCE_MEMORY, WALL_CLOCK
from testing.faults.scene import Scene
from testing.footprint import children_of
from testing.pictures import encoded, noise, photograph
from testing.wire import Connections, Lost, Refused, Reply, post

_HEADERS = {"Content-Type": "image/jpeg"}
_ROCKET = encoded(photograph("rocket"), "JPEG")
_MINUTES = post("/v1/explain", _ROCKET, _HEADERS, (("method", "scorecam"), ("layer", "blocks.6"), ("metrics", "false")))
_SHORT = post("/v1/explain", _ROCKET, _HEADERS, (("include", "attribution"),))
# Enough to read a request, too little for the activations of a batch.
_LITTLE_BYTES = 2**22
# Five hours forth, and then to a day ago.
_JUMPS_S = (5 * 3600, -86400)


async def worker_death(scene: Scene) -> str:
    """The worker of the device dies while four requests that take minutes wait for it."""
    calls = [asyncio.create_task(_outcome(Connections(scene.service.url), _MINUTES)) for _ in range(4)]
    await asyncio.sleep(1.5)
    os.kill(scene.pid, signal.SIGUSR1)
    scene.is_over()
    outcomes = Counter([await call for call in calls])
    return f"{_counted(outcomes)} within {time.monotonic() - scene.ended:.1f} s"


async def short_of_memory(scene: Scene, seconds: float = 5.0, count: int = 16) -> str:
    """Nothing in the process gets more than a little memory at once, while large work comes in."""
    large = encoded(photograph("coffee").resize((4000, 2667)), "JPEG")
    targets = tuple(("target", str(target)) for target in range(count))
    works = [
        post("/v1/explain", large, _HEADERS, (("max_side", "0"),)),
        post("/v1/explain", large, _HEADERS, (("method", "layercam"), *targets)),
        post("/v1/explain", _ROCKET, _HEADERS, (("layer", "last_conv"), *targets)),
        post(
            "/v1/explain",
            _ROCKET,
            _HEADERS,
            (("layer", "blocks.0"), ("smooth", "flip-scale"), ("metrics", "false"), *targets),
        ),
    ]
    SCARCE_MEMORY.tell(scene.folder, _LITTLE_BYTES)
    try:
        calls = [asyncio.create_task(_again_and_again(scene, work, seconds)) for work in works]
        await asyncio.sleep(seconds)
    finally:
        SCARCE_MEMORY.tell(scene.folder, 0)
    scene.is_over()
    return _counted(sum([await call for call in calls], Counter[str]()))


async def clock_jump(scene: Scene, seconds: float = 4.0) -> str:
    """The clock on the wall goes five hours forth, then to a day ago; that of deadlines stays."""
    shown = [await _wall_clock(scene) - time.time()]
    calls = asyncio.create_task(_again_and_again(scene, _SHORT, (1 + len(_JUMPS_S)) * seconds))
    for jump_s in _JUMPS_S:
        WALL_CLOCK.tell(scene.folder, jump_s)
        await asyncio.sleep(seconds)
        shown.append(await _wall_clock(scene) - time.time())
    jumps = [f"{(after - shown[0]) / 3600:+.1f} h" for after in shown[1:]]
    return f"{_counted(await calls)}; the service's Date moved by {', '.join(jumps)}"


async def stopped_child(scene: Scene, seconds: float = 5.0) -> str:
    """One of the processes that read pictures stands still for a while."""
    child = _decoders(scene)[0]
    os.kill(child, signal.SIGSTOP)
    started = time.monotonic()
    calls = [asyncio.create_task(_outcome(Connections(scene.service.url), _SHORT)) for _ in range(8)]
    await asyncio.sleep(seconds)
    os.kill(child, signal.SIGCONT)
    scene.is_over()
    outcomes = Counter([await call for call in calls])
    return f"{_counted(outcomes)} within {time.monotonic() - started:.1f} s"


async def killed_children(scene: Scene, times: int = 20, every_s: float = 0.15) -> str:
    """All the processes that read pictures are killed, again and again, with large pictures in their hands."""
    slow = post("/v1/predict", encoded(noise(1500, 2000, 3), "PNG", compress_level=1), _HEADERS)
    calls = [asyncio.create_task(_again_and_again(scene, slow, every_s * times)) for _ in range(4)]
    for _ in range(times):
        await asyncio.sleep(every_s)
        for child in _decoders(scene):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
    scene.is_over()
    return _counted(sum([await call for call in calls], Counter[str]()))


async def sigterm(scene: Scene, callers: int = 8) -> str:
    """The service is told to stop while callers ask again and again."""
    calls = [asyncio.create_task(_until_nobody_listens(scene)) for _ in range(callers)]
    await asyncio.sleep(3.0)
    os.kill(scene.pid, signal.SIGTERM)
    scene.is_over()
    outcomes = sum([await call for call in calls], Counter[str]())
    status = await asyncio.to_thread(scene.service.process.wait, 60)
    return f"{_counted(outcomes)}; ended with {status} after {time.monotonic() - scene.ended:.1f} s"


async def _outcome(connections: Connections, request: bytes) -> str:
    try:
        return _code(await connections.call(request))
    except Lost:
        return "lost"
    except Refused:
        return "refused"


def _code(reply: Reply) -> str:
    return "200" if reply.status == 200 else f"{reply.status} {httpx.Response(200, content=reply.body).json()['code']}"


async def _again_and_again(scene: Scene, request: bytes, seconds: float) -> Counter[str]:
    connections, outcomes, started = Connections(scene.service.url), Counter[str](), time.monotonic()
    while time.monotonic() - started < seconds:
        outcomes[await _outcome(connections, request)] += 1
    await connections.close()
    return outcomes


async def _until_nobody_listens(scene: Scene) -> Counter[str]:
    connections, outcomes = Connections(scene.service.url), Counter[str]()
    outcome = ""
    while outcome not in ("refused", "lost"):
        before, outcome = outcome, await _outcome(connections, _SHORT)
        # Who has been told that the service is stopping may find its door closed in any way.
        outcomes["refused" if outcome == "lost" and "draining" in before else outcome] += 1
    await connections.close()
    return outcomes


async def _wall_clock(scene: Scene) -> float:
    async with httpx.AsyncClient(base_url=scene.service.url) as client:
        date = (await client.get("/livez")).headers["date"]
    return parsedate_to_datetime(date).timestamp()


def _decoders(scene: Scene) -> list[int]:
    return [pid for pid in children_of(scene.pid) if b"app.imaging.child" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def _counted(outcomes: Counter[str]) -> str:
    return ", ".join(f"{count} x {outcome}" for outcome, count in outcomes.most_common())

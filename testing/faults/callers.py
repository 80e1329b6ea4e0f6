"""What callers do wrong on the wire: bodies and headers that come slowly, or never, or half."""

import asyncio
import json
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Iterable

from testing.faults.scene import Scene
from testing.footprint import footprint
from testing.pictures import encoded, photograph
from testing.wire import address_of, post, read_reply

PICTURE = encoded(photograph("coffee"), "JPEG")
HEAD = (
    f"POST /v1/explain HTTP/1.1\r\nHost: service\r\nContent-Type: image/jpeg\r\nContent-Length: {len(PICTURE)}\r\n\r\n"
).encode()
# A reply of several megabytes.
LARGE_REPLY = post(
    "/v1/explain",
    encoded(photograph("coffee").resize((3000, 2000)), "JPEG"),
    {"Content-Type": "image/jpeg"},
    (("max_side", "0"), ("metrics", "false"), ("method", "gradcam")),
)
# The service closes after its own limits; longer than this nobody waits for it.
PATIENCE_S = 60.0


async def slow_uploads(scene: Scene, slow: int = 20, stalled: int = 15, gone: int = 15) -> str:
    """Bodies at a byte a second, bodies that stop in the middle, and callers who hang up there."""
    half = len(PICTURE) // 2
    works = {
        "a byte a second": [_upload(scene, PICTURE[:0], drips=True) for _ in range(slow)],
        "stopped in the middle": [_upload(scene, PICTURE[:half], drips=False) for _ in range(stalled)],
        "hung up in the middle": [_hang_up(scene, PICTURE[:half]) for _ in range(gone)],
    }
    told = [asyncio.create_task(_together(name, group)) for name, group in works.items()]
    return "; ".join([await line for line in told])


async def idle_connections(scene: Scene, silent: int = 1000, half: int = 100, dripping: int = 100) -> str:
    """Connections that say nothing, half a header, or a header that never ends."""
    before = footprint(scene.pid).descriptors
    pieces = ((silent, b"", False), (half, HEAD[:40], False), (dripping, HEAD[:40], True))
    names = ("silent", "half a header", "a header at a byte a second")
    works = {
        name: [_never_ask(scene, start, drips=drips) for _ in range(count)]
        for name, (count, start, drips) in zip(names, pieces, strict=True)
    }
    told = [asyncio.create_task(_together(name, group)) for name, group in works.items()]
    await asyncio.sleep(3.0)
    most = footprint(scene.pid).descriptors
    lines = [await line for line in told]
    for _ in range(int(PATIENCE_S)):
        after = footprint(scene.pid).descriptors
        if after <= before:
            break
        # On a busy machine the last are closed later.
        await asyncio.sleep(1.0)
    return "; ".join([*lines, f"descriptors {before}, then {most}, then {after}"])


async def who_never_read(scene: Scene, callers: int = 40) -> str:
    """Callers whose replies of megabytes nobody takes from the wire."""
    before = footprint(scene.pid)
    works = [_never_read(scene) for _ in range(callers)]
    told = asyncio.create_task(_together("replies that nobody reads", works))
    await asyncio.sleep(PATIENCE_S / 2)
    most = footprint(scene.pid)
    line = await told
    await asyncio.sleep(1.0)
    after = footprint(scene.pid)
    memory = f"MiB {before.resident_mib:.0f}, then {most.resident_mib:.0f}, then {after.resident_mib:.0f}"
    return f"{line}; descriptors {before.descriptors}, then {most.descriptors}, then {after.descriptors}; {memory}"


async def _together(name: str, works: Iterable[Awaitable[str]]) -> str:
    started = time.monotonic()
    outcomes = Counter(await asyncio.gather(*works))
    counted = ", ".join(f"{count} x {outcome}" for outcome, count in outcomes.most_common())
    return f"{name}: {counted}, the last after {time.monotonic() - started:.0f} s"


async def _upload(scene: Scene, start: bytes, *, drips: bool) -> str:
    reader, writer = await asyncio.open_connection(*address_of(scene.service.url))
    try:
        writer.write(HEAD + start)
        return await _answer(reader, writer, drips=drips)
    finally:
        writer.close()


async def _hang_up(scene: Scene, start: bytes) -> str:
    _, writer = await asyncio.open_connection(*address_of(scene.service.url))
    writer.write(HEAD + start)
    await asyncio.sleep(1.0)
    writer.close()
    return "gone"


async def _never_ask(scene: Scene, start: bytes, *, drips: bool) -> str:
    try:
        reader, writer = await asyncio.open_connection(*address_of(scene.service.url))
    except OSError as error:
        return type(error).__name__
    try:
        writer.write(start)
        return await _answer(reader, writer, drips=drips)
    finally:
        writer.close()


async def _never_read(scene: Scene) -> str:
    """Asks for much, and looks only whether the connection is still there."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_connect(connection, address_of(scene.service.url))
            await loop.sock_sendall(connection, LARGE_REPLY)
            deadline = time.monotonic() + PATIENCE_S
            while time.monotonic() < deadline:
                await asyncio.sleep(1.0)
                # TCP_INFO begins with the state: 1 is established, 8 waits for this side to close too.
                if connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) != b"\x01":
                    return "closed"
        except OSError:
            return "closed"
    return f"open after {PATIENCE_S:.0f} s"


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, drips: bool) -> str:
    """What comes back to a request that is never complete."""
    answer = asyncio.create_task(read_reply(reader))
    deadline = time.monotonic() + PATIENCE_S
    try:
        while not answer.done() and time.monotonic() < deadline:
            await asyncio.wait([answer], timeout=1.0)
            if drips and not answer.done():
                writer.write(b"x")
        if not answer.done():
            return f"open after {PATIENCE_S:.0f} s"
        reply = answer.result()
    except (OSError, asyncio.IncompleteReadError):
        return "closed"
    finally:
        answer.cancel()
    try:
        return f"{reply.status} {json.loads(reply.body)['code']}"
    except ValueError:
        return str(reply.status)

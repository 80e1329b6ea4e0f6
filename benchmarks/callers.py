"""Callers of the service, in a process of their own: they must not take the time that they measure.

`python -m benchmarks.callers URL PATH FILE closed CALLERS SECONDS` has so many callers each wait for their answer
before they ask again; `... open RATE SECONDS` asks at a steady rate whatever comes back. Both print, as JSON, the
latency of each answer in ms, how often each status came, and how long it all took.
"""

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit


@dataclass
class Outcome:
    """What the callers saw.

    Attributes:
        latencies_ms: of answers with status 200.
        statuses: how often each status came; "lost" where no answer came.
        seconds: from the first request to the last answer.
    """

    latencies_ms: list[float] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def note(self, status: str, latency_ms: float) -> None:
        """Notes one answer."""
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if status == "200":
            self.latencies_ms.append(latency_ms)


class Caller:
    """One connection, kept open: far cheaper than a full HTTP client, of which sixteen would take a processor."""

    def __init__(self, url: str, path: str, body: bytes) -> None:
        address = urlsplit(url)
        self._host, self._port = str(address.hostname), int(address.port or 80)
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: image/jpeg\r\nAccept: image/png\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self._request = head.encode() + body
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(self) -> str:
        """Asks once; returns the status."""
        # A connection that lay idle may have been closed in the meantime: then a new one, as every HTTP client does.
        for is_reused in (True, False) if self._streams else (False,):
            try:
                return await self._exchange()
            except (OSError, asyncio.IncompleteReadError) as error:
                self.close()
                if not is_reused or (isinstance(error, asyncio.IncompleteReadError) and error.partial):
                    break
        return "lost"

    async def _exchange(self) -> str:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        writer.write(self._request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = next(line for line in head.split("\r\n") if line.startswith("content-length:"))
        await reader.readexactly(int(length.partition(":")[2]))
        if "connection: close" in head:
            self.close()
        return head.split(" ")[1]

    def close(self) -> None:
        """Hangs up."""
        if self._streams is not None:
            self._streams[1].close()
        self._streams = None


async def closed_loop(callers: list[Caller], seconds: float) -> Outcome:
    """Every caller asks again as soon as he is answered."""
    outcome = Outcome()
    started = time.perf_counter()

    async def work(caller: Caller) -> None:
        while time.perf_counter() - started < seconds:
            asked = time.perf_counter()
            status = await caller.call()
            outcome.note(status, 1e3 * (time.perf_counter() - asked))
            if status == "429":
                await asyncio.sleep(0.05)

    await asyncio.gather(*map(work, callers))
    outcome.seconds = time.perf_counter() - started
    for caller in callers:
        caller.close()
    return outcome


async def open_loop(make: "type[Caller]", arguments: tuple[str, str, bytes], rate: float, seconds: float) -> Outcome:
    """Requests come at their own times, evenly; latency counts from when one should have been sent."""
    outcome = Outcome()
    free: list[Caller] = []
    started = time.perf_counter()

    async def work(due: float) -> None:
        caller = free.pop() if free else make(*arguments)
        status = await caller.call()
        outcome.note(status, 1e3 * (time.perf_counter() - due))
        free.append(caller)

    tasks = []
    for number in range(int(rate * seconds)):
        due = started + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(work(due)))
    await asyncio.gather(*tasks)
    outcome.seconds = time.perf_counter() - started
    for caller in free:
        caller.close()
    return outcome


def main(url: str, path: str, file: str, loop: str, *numbers: str) -> None:
    """Calls and prints."""
    body = Path(file).read_bytes()
    first, seconds = map(float, numbers)
    if loop == "closed":
        outcome = asyncio.run(closed_loop([Caller(url, path, body) for _ in range(int(first))], seconds))
    else:
        outcome = asyncio.run(open_loop(Caller, (url, path, body), first, seconds))
    print(json.dumps(asdict(outcome)))


if __name__ == "__main__":
    main(*sys.argv[1:])

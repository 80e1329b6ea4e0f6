"""HTTP over bare asyncio streams: far cheaper than a full client, where callers share processors with the service."""

import asyncio
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field

_LIMIT_S = 300.0


class Lost(Exception):
    """No whole answer came to a request that was sent."""


class Refused(Exception):
    """Nobody listens."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer.

    Attributes:
        status: of HTTP.
        headers: their names in lower case.
        body: all of it.
    """

    status: int
    headers: dict[str, str]
    body: bytes


def post(path: str, body: bytes, headers: Mapping[str, str], fields: tuple[tuple[str, str], ...] = ()) -> bytes:
    """A whole request, ready to be sent again and again."""
    target = f"{path}?{urllib.parse.urlencode(fields)}" if fields else path
    lines = [f"POST {target} HTTP/1.1", "Host: service", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def address_of(url: str) -> tuple[str, int]:
    """Host and port."""
    parts = urllib.parse.urlsplit(url)
    return str(parts.hostname), int(parts.port or 80)


async def read_reply(reader: asyncio.StreamReader) -> Reply:
    """Reads one answer.

    Raises:
        OSError: the connection was reset.
        asyncio.IncompleteReadError: it was closed before the end of the answer.
    """
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers["content-length"]))
    return Reply(int(head[0].split(" ")[1]), headers, body)


@dataclass
class Connections:
    """Connections to one service that stay open and are used again, the latest first.

    Attributes:
        url: scheme, host and port.
        opened: how many there have been.
    """

    url: str
    opened: int = 0
    _free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list)

    async def call(self, request: bytes) -> Reply:
        """Sends a request and reads its answer.

        Raises:
            Lost: no whole answer came.
            Refused: nobody listens.
        """
        # A connection that lay idle may have been closed in the meantime: then another one, as every client does.
        while self._free:
            streams = self._free.pop()
            try:
                return await self._exchange(streams, request)
            except (OSError, asyncio.IncompleteReadError) as error:
                if getattr(error, "partial", b""):
                    raise Lost(repr(error)) from None
        try:
            streams = await asyncio.open_connection(*address_of(self.url), limit=2**22)
        except ConnectionRefusedError:
            raise Refused from None
        except OSError as error:
            raise Lost(repr(error)) from None
        self.opened += 1
        try:
            return await self._exchange(streams, request)
        except (OSError, asyncio.IncompleteReadError) as error:
            raise Lost(repr(error)) from None

    async def _exchange(self, streams: tuple[asyncio.StreamReader, asyncio.StreamWriter], request: bytes) -> Reply:
        reader, writer = streams
        is_open = False
        try:
            writer.write(request)
            async with asyncio.timeout(_LIMIT_S):
                reply = await read_reply(reader)
            is_open = reply.headers.get("connection", "").lower() != "close"
        finally:
            if is_open:
                self._free.append(streams)
            else:
                writer.close()
        return reply

    async def close(self) -> None:
        """Hangs up."""
        for _, writer in self._free:
            writer.close()
        self._free.clear()
        await asyncio.sleep(0)

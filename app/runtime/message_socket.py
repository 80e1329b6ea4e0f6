"""Messages to and from an image process, over the socket to it."""

import asyncio
import socket
from collections.abc import Sequence

from app.imaging.messages import LENGTH, MAX_MESSAGE_BYTES, ProtocolError, unpack


class MessageSocket:
    """Sends and receives whole messages, and the bytes that follow them."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    @property
    def is_silent(self) -> bool:
        """Whether the other side is connected and has sent nothing."""
        try:
            self._connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()

    async def receive(self) -> dict[str, object]:
        """Receives a message.

        Raises:
            ProtocolError: it is too long, or no message.
            EOFError: the connection was closed.
        """
        length = bytearray(LENGTH.size)
        await self.fill(memoryview(length))
        (count,) = LENGTH.unpack(length)
        if count > MAX_MESSAGE_BYTES:
            raise ProtocolError("too long a message")
        text = bytearray(count)
        await self.fill(memoryview(text))
        return unpack(bytes(text))

    async def send(self, message: bytes, payload: bytes = b"", *, descriptors: Sequence[int] = ()) -> None:
        """Sends a message; nothing else is on its way to the child then, so that its first bytes always fit."""
        loop = asyncio.get_running_loop()
        if descriptors:
            sent = socket.send_fds(self._connection, [message], descriptors)
            message = message[sent:]
        for part in (message, payload):
            if part:
                await loop.sock_sendall(self._connection, part)

    async def fill(self, buffer: memoryview) -> None:
        """Receives as many bytes as a buffer has.

        Raises:
            EOFError: the connection was closed.
        """
        loop = asyncio.get_running_loop()
        while buffer:
            count = await loop.sock_recv_into(self._connection, buffer)
            if count == 0:
                raise EOFError("it hung up")
            buffer = buffer[count:]

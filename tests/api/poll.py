"""Polls /livez from a process of its own until its input ends; prints each answer's time in milliseconds as JSON.

Only the standard library, so that it starts at once and costs the service nothing.
"""

import json
import select
import socket
import sys
import time


def main(host: str, port: int) -> None:
    """Polls over one kept connection, every 5 ms."""
    request = f"GET /livez HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    times_ms = []
    with socket.create_connection((host, port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while not select.select([sys.stdin], [], [], 0.005)[0]:
            started = time.perf_counter()
            connection.sendall(request)
            answer = b""
            while not answer.endswith(b"}"):
                answer += connection.recv(4096)
            times_ms.append(1e3 * (time.perf_counter() - started))
            assert answer.startswith(b"HTTP/1.1 200")
    json.dump(times_ms, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

"""A program of its own, which loads nothing: `python benchmarks/asking_livez.py URL SECONDS`.

It asks `/livez` on one connection, so many seconds after each answer, until its standard input ends; then it prints the
time of each answer in ms, as JSON.
"""

import json
import select
import socket
import sys
import time
from urllib.parse import urlsplit

_TIMEOUT_S = 120.0


def ask_until_told(url: str, pause_s: float) -> None:
    """Asks until the standard input ends, and prints the latencies."""
    place = urlsplit(url)
    latencies_ms: list[float] = []
    with socket.create_connection((place.hostname, place.port), _TIMEOUT_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while not latencies_ms or not select.select([sys.stdin], [], [], pause_s)[0]:
            started = time.perf_counter()
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b""
            while b"alive" not in answer:
                answer += connection.recv(65536)
            latencies_ms.append(1e3 * (time.perf_counter() - started))
            if len(latencies_ms) == 1:
                print("asking", flush=True)
    print(json.dumps(latencies_ms))


if __name__ == "__main__":
    ask_until_told(sys.argv[1], float(sys.argv[2]))

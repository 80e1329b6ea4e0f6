"""A program of its own, so that nothing holds it up but the service: asks all the time, and tells how that went.

`python tests/attacks/asking.py URL` reads a picture from its standard input (its length in four bytes first), asks
`/livez` and posts the picture to `/v1/predict` until its standard input ends, and writes a line of JSON for each
answer: its kind, its status (0 without an answer) and its seconds.
"""

import http.client
import json
import sys
import threading
import time
from urllib.parse import urlsplit

_PAUSE_S = 0.05
_TIMEOUT_S = 120.0


def ask_until_told(url: str, picture: bytes) -> None:
    """Asks from two threads until the standard input ends."""
    stopping = threading.Event()
    writing = threading.Lock()
    place = urlsplit(url)

    def ask(kind: str, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> None:
        while True:
            started = time.perf_counter()
            connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=_TIMEOUT_S)
            try:
                connection.request(method, path, body, headers)
                answer = connection.getresponse()
                answer.read()
                status = answer.status
            except (OSError, http.client.HTTPException):
                status = 0
            finally:
                connection.close()
            with writing:
                print(json.dumps([kind, status, time.perf_counter() - started]), flush=True)
            if stopping.wait(_PAUSE_S):
                return

    threads = [
        threading.Thread(target=ask, args=("livez", "GET", "/livez", None, {})),
        threading.Thread(target=ask, args=("predict", "POST", "/v1/predict", picture, {"Content-Type": "image/jpeg"})),
    ]
    for thread in threads:
        thread.start()
    sys.stdin.buffer.read()
    stopping.set()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    ask_until_told(sys.argv[1], sys.stdin.buffer.read(int.from_bytes(sys.stdin.buffer.read(4), "big")))

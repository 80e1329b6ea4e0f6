"""Nobody reads what the service writes to its stderr: a collector of logs that is stuck."""

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from testing.pictures import encoded, photograph
from testing.serving import ROOT, Service, environment, wait_for_in_flight
from tests.api.asking import JPEG
from tests.attacks.neighbours import calm, neighbours

# Nothing is measured by it: a machine that is busy with other work takes minutes.
_LIMIT_S = 600.0
# More lines than the queue holds; 96 used to be enough.
_MOST_REQUESTS = 20_000
_SLOW = "/v1/explain?method=scorecam&layer=blocks.6&metrics=false"


class Reader:
    """Who reads the log, or does not."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.text = ""

    def until(self, pattern: str) -> str:
        """Reads until the log says this; returns it."""
        deadline = time.monotonic() + _LIMIT_S
        while not (found := re.search(pattern, self.text)):
            assert time.monotonic() < deadline, self.text[-2000:]
            if select.select([self._descriptor], [], [], 1)[0]:
                self.text += os.read(self._descriptor, 2**16).decode()
        return found[0]


@contextmanager
def unread() -> Iterator[tuple[Service, Reader]]:
    """A service that is ready, and whose log is read up to there."""
    command = [sys.executable, "-m", "app", "serve"]
    env = environment(trunk="eager", drain_s=_LIMIT_S, timeout_s=_LIMIT_S)
    with subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        reader = Reader(process.stderr.fileno())
        try:
            url = reader.until(r"running on http://[\w.:]+").removeprefix("running on ")
            reader.until("ready. The page")
            yield Service(process, url, Path(os.devnull)), reader
        finally:
            process.kill()


def dropped(client: httpx.Client) -> float:
    (value,) = re.findall(r"^cam_log_lines_dropped_total (\S+)$", client.get("/metrics").text, flags=re.MULTILINE)
    return float(value)


@pytest.fixture(scope="module")
def picture() -> bytes:
    return encoded(photograph("rocket"), "JPEG")


def test_requests_are_answered_and_sigterm_drains_while_nobody_reads_the_log(picture: bytes) -> None:
    with unread() as (service, reader), httpx.Client(base_url=service.url, timeout=_LIMIT_S) as client:
        before = calm(service)
        path = "/nothing/" + "x" * 190
        with neighbours(service) as seen:
            for number in range(_MOST_REQUESTS):
                assert client.get(path).status_code == 404
                if number % 100 == 0 and dropped(client):
                    break
        seen.assert_unhurt(before)
        lost = dropped(client)
        assert lost

        reader.until(r'"message": "[\d,]+ lines were dropped: nobody read the log"')
        assert client.get("/another").status_code == 404
        reader.until('"path": "/another"')

        # Another time, until the pipe is full.
        for _ in range(300):
            client.get(path)
        with ThreadPoolExecutor(1) as pool:
            accepted = pool.submit(httpx.post, service.url + _SLOW, content=picture, headers=JPEG, timeout=_LIMIT_S)
            wait_for_in_flight(client, 1, [accepted])
            service.process.send_signal(signal.SIGTERM)
            assert accepted.result().status_code == 200
        client.close()
        assert service.process.wait(_LIMIT_S) == 0

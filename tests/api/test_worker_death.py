"""The worker of a device dies in the middle of requests: who waited hears of it at once, and the next request works."""

import ctypes
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.runtime.runtime import Runtime
from app.settings import Settings
from tests.api.asking import JPEG
from tests.imaging.pictures import encoded, photograph

IMAGE = encoded(photograph("rocket"), "JPEG")
LONG = "/v1/explain?method=scorecam&layer=blocks.6&metrics=false"


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    return Runtime(Settings(trunk="eager"))


@pytest.fixture(scope="module")
def client(runtime: Runtime) -> Iterator[TestClient]:
    with TestClient(create_app(runtime.settings, runtime)) as client:
        deadline = time.monotonic() + 120
        while client.get("/readyz").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield client


def worker_thread() -> threading.Thread:
    return next(thread for thread in threading.enumerate() if thread.name == "device-cpu")


def test_the_waiting_get_503_at_once_and_the_next_request_works(client: TestClient) -> None:
    thread = worker_thread()
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(client.post, LONG, content=IMAGE, headers=JPEG) for _ in range(4)]
        time.sleep(1.5)
        assert ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit)
        )
        killed = time.monotonic()
        answers = [request.result() for request in waiting]
        assert time.monotonic() - killed < 10, "one slice of work at the most, where it would have been minutes"
    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(503, "worker_failed")] * 4
    assert not thread.is_alive()
    assert client.post("/v1/explain", content=IMAGE, headers=JPEG).status_code == 200
    assert client.get("/readyz").status_code == 200

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
from app.runtime.worker import DeviceWorker
from app.settings import Settings
from testing.pictures import encoded, photograph
from tests.api.asking import JPEG

IMAGE = encoded(photograph("rocket"), "JPEG")
# Nothing is measured by it: a machine that is busy with other work takes minutes.
PATIENCE_S = 600
LONG = "/v1/explain?method=scorecam&layer=blocks.6&metrics=false"


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    return Runtime(Settings(trunk="eager", timeout_s=10 * PATIENCE_S))


@pytest.fixture(scope="module")
def client(runtime: Runtime) -> Iterator[TestClient]:
    with TestClient(create_app(runtime.settings, runtime)) as client:
        deadline = time.monotonic() + PATIENCE_S
        while client.get("/readyz").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield client


def worker_thread() -> threading.Thread:
    return next(thread for thread in threading.enumerate() if thread.name == "device-cpu")


def wait_for_jobs(worker: DeviceWorker, running: int, waiting: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while (len(worker._running), worker.depth) != (running, waiting):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def kill(thread: threading.Thread) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while thread.is_alive():
        assert time.monotonic() < deadline
        # What is raised while a finalizer runs is ignored by Python: then it is raised again.
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))
        thread.join(5)


def test_the_waiting_get_503_at_once_and_the_next_request_works(client: TestClient, runtime: Runtime) -> None:
    thread = worker_thread()
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(client.post, LONG, content=IMAGE, headers=JPEG) for _ in range(4)]
        wait_for_jobs(runtime.workers["cpu"], running=1, waiting=3)
        kill(thread)
        # Had the one that runs been finished first, its answer were a 200.
        answers = [request.result() for request in waiting]
    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(503, "worker_failed")] * 4
    assert client.post("/v1/explain", content=IMAGE, headers=JPEG).status_code == 200
    assert client.get("/readyz").status_code == 200

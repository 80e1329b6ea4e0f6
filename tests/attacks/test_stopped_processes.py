"""Image processes that stand still are no fault of the pictures in their hands."""

import os
import signal

import httpx

from testing.footprint import children_of
from testing.pictures import encoded, photograph
from testing.serving import Service

PICTURE = encoded(photograph("chelsea"), "JPEG")


def test_good_pictures_are_answered_when_all_processes_that_read_them_were_stopped(attacked: Service) -> None:
    stopped = children_of(attacked.process.pid)
    assert len(stopped) >= 2
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    answer = httpx.post(
        f"{attacked.url}/v1/predict", content=PICTURE, headers={"Content-Type": "image/jpeg"}, timeout=90
    )
    # What stands still is replaced; who has met two such processes is told to come again.
    assert answer.status_code == 200 or (answer.status_code, answer.json()["code"]) == (503, "worker_failed")
    again = httpx.post(
        f"{attacked.url}/v1/predict", content=PICTURE, headers={"Content-Type": "image/jpeg"}, timeout=90
    )
    assert again.status_code == 200

"""The terminal of the service is closed: it drains as it does when it is told to stop."""

import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from testing.pictures import encoded, photograph
from testing.serving import ROOT, environment, serving, start, wait_for_in_flight
from tests.api.asking import JPEG

# Nothing is measured by it: a machine that is busy with other work takes minutes.
_LIMIT_S = 600.0
# Seconds of work: 256 passes.
_SLOW = "/v1/explain?method=scorecam&layer=layer3&metrics=false"


def test_sighup_answers_what_was_accepted_and_ends_with_0(tmp_path: Path) -> None:
    picture = encoded(photograph("rocket"), "JPEG")
    with serving(tmp_path, models="small", trunk="eager", drain_s=_LIMIT_S, timeout_s=_LIMIT_S) as service:
        with httpx.Client(base_url=service.url, timeout=_LIMIT_S) as client, ThreadPoolExecutor(2) as pool:
            calls = [pool.submit(client.post, _SLOW, content=picture, headers=JPEG) for _ in range(2)]
            wait_for_in_flight(client, 2, calls)
            service.process.send_signal(signal.SIGHUP)
            while (answer := client.get("/readyz")).status_code == 200:
                assert not any(call.done() for call in calls)
            assert answer.json()["code"] == "draining"
            assert [call.result().status_code for call in calls] == [200] * 2
        assert service.process.wait(_LIMIT_S) == 0
        assert "Traceback" not in service.log.read_text()


def caught(process: subprocess.Popen[bytes], number: signal.Signals) -> bool:
    status = Path(f"/proc/{process.pid}/status").read_text()
    (mask,) = re.findall(r"^SigCgt:\s*(\w+)$", status, flags=re.MULTILINE)
    return bool(int(mask, 16) >> (number - 1) & 1)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_service_that_does_not_listen_yet_ends_at_once(tmp_path: Path, number: signal.Signals) -> None:
    process = start(environment(), tmp_path / "log.txt")
    deadline = time.monotonic() + _LIMIT_S
    while not caught(process, number):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(number)
    assert process.wait(_LIMIT_S) == 0
    assert (tmp_path / "log.txt").read_text() == ""


def test_nohup_is_obeyed() -> None:
    program = "import signal; from app.process import stopping_signals; print(signal.SIGHUP in stopping_signals())"
    command = [sys.executable, "-c", program]
    outputs = [
        subprocess.run([*prefix, *command], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
        for prefix in ([], ["nohup"])
    ]
    assert outputs == ["True", "False"]

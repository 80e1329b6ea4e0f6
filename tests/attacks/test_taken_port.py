"""A port that is taken, and other mistakes that show before anything is loaded."""

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.serving import ROOT, environment

_HEAVY = {"torch", "numpy", "fastapi", "uvicorn", "openvino", "timm", "PIL"}


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield int(listening.getsockname()[1])


def ended(env: dict[str, str]) -> tuple[int, str, float]:
    """Exit status, log and seconds of a service that does not start."""
    started = time.monotonic()
    command = [sys.executable, "-m", "app", "serve"]
    process = subprocess.run(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    return process.returncode, process.stderr, time.monotonic() - started


def import_s() -> float:
    """Seconds that PyTorch alone takes to be imported, now and here."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return time.monotonic() - started


def test_a_taken_port_ends_the_process_at_once_with_one_line_that_names_the_settings(taken: int) -> None:
    status, log, seconds = ended(environment(port=taken))
    assert status == 1
    (line,) = map(json.loads, log.splitlines())
    assert line["level"] == "ERROR"
    assert line["message"] == f"cannot start: CAM_HOST=127.0.0.1, CAM_PORT={taken}: address already in use"
    print(f"{seconds:.2f} s")
    assert seconds < 2 or seconds < import_s()


@pytest.mark.parametrize(
    ("settings", "status", "message"),
    [
        ({"port": None}, 1, "address already in use"),
        ({"host": "nosuch.invalid"}, 1, "CAM_HOST=nosuch.invalid, CAM_PORT=0: "),
        ({"host": "192.0.2.1"}, 1, "CAM_HOST=192.0.2.1, CAM_PORT=0: cannot assign requested address"),
        ({"host": "a" * 70 + ".b"}, 1, "CAM_PORT=0: "),
        ({"timeout_s": "soon"}, 2, "CAM_TIMEOUT_S: "),
    ],
)
def test_nothing_heavy_is_imported_before(taken: int, settings: dict[str, object], status: int, message: str) -> None:
    given = {name: taken if value is None else value for name, value in settings.items()}
    found, log, _ = ended(environment(**given) | {"PYTHONPROFILEIMPORTTIME": "1"})
    imported = {name.partition(".")[0] for name in re.findall(r"^import time:.*\| +([\w.]+)$", log, flags=re.MULTILINE)}
    assert "pydantic" in imported
    assert not imported & _HEAVY
    (line,) = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert message in line["message"]
    assert found == status


def test_a_port_that_another_takes_meanwhile_ends_the_process_in_a_line(tmp_path: Path) -> None:
    """Two services that start at once both bind it; the one that listens first has it."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        log = tmp_path / "log.txt"
        command = [sys.executable, "-m", "app", "serve"]
        with (
            log.open("wb") as file,
            subprocess.Popen(command, cwd=ROOT, env=environment(port=port), stderr=file) as late,
        ):
            while not is_importing(late.pid):
                assert late.poll() is None, log.read_text()
                time.sleep(0.01)
            other.listen()
            assert late.wait(120) == 1
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["message"] for line in lines if line["level"] == "ERROR"] == [
        f"cannot start: CAM_HOST=127.0.0.1, CAM_PORT={port}: address already in use"
    ]


def is_importing(pid: int) -> bool:
    """Whether a process has begun to import what comes after it has bound its port."""
    return "/numpy/" in Path(f"/proc/{pid}/maps").read_text()

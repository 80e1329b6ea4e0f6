"""Runs the service as its users do: `python -m app serve`, in its own process, on a real socket."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[1]
# Nothing is measured by it: a machine that is busy with other work takes minutes.
_START_S = 600
_STOP_S = 60

# Labels that a caller can get wrong: two classes of one name, two that differ in case, a comma, no ASCII, and
# one that is longer than a header may be.
LABELS = ["crane", "crane", "Cardigan", "cardigan", "maillot, tank suit", "Ωμέγα ✓", "é" * 3000, "ant", "bee", "cat"]

_NETWORKS = f"""
[networks.small]
architecture = "torchvision:resnet18"
weights = "random"
labels = {LABELS!r}

[networks.vit]
architecture = "timm:test_vit"
weights = "random"
classes = 10

[networks.pair]
architecture = "timm:test_vit"
weights = "random"
labels = ["yes", "no"]

[networks.findings]
architecture = "timm:test_resnet"
weights = "random"
classes = 14
scores = "sigmoid"

[networks.mole]
architecture = "timm:test_resnet"
weights = "random"
classes = 1
scores = "sigmoid"
labels = ["malignant"]

[networks.film]
architecture = "timm:test_resnet"
weights = "random"
classes = 4
[networks.film.preprocessing]
channels = 1
mean = 0.5
std = 0.25
max_value = 4095
fit = "stretch"

[networks.gated]
architecture = "torchvision:mobilenet_v3_small"
weights = "random"
classes = 10
preprocessing = {{ input_size = 64, resize_size = 64 }}

[networks.dense]
architecture = "torchvision:densenet121"
weights = "random"
classes = 10
layers = {{ last_norm = "features.norm0+relu" }}
preprocessing = {{ input_size = 64, resize_size = 64 }}
"""


@dataclass(frozen=True, slots=True)
class Service:
    """A running service.

    Attributes:
        process: its process.
        url: scheme, host and port.
        log: everything it has said on the terminal so far.
    """

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def wait_until_ready(self) -> None:
        """Polls `/readyz`."""
        deadline = time.monotonic() + _START_S
        with httpx.Client(base_url=self.url, timeout=_START_S) as client:
            while client.get("/readyz").status_code != 200:
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.2)


def environment(**settings: object) -> dict[str, str]:
    """The environment of this process with no other settings of the service than these, on the processor."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CAM_")}
    return (
        kept
        # Ray's processes are nice to all others, and would hardly get on beside other tests.
        | {"CAM_PORT": "0", "CAM_DEVICE": "cpu", "RAY_worker_niceness": "0"}
        | {f"CAM_{name.upper()}": str(value) for name, value in settings.items()}
    )


def start(env: dict[str, str], log: Path, *options: str) -> subprocess.Popen[bytes]:
    """Starts `python -m app serve`."""
    with log.open("wb") as file:
        return subprocess.Popen([sys.executable, "-m", "app", "serve", *options], cwd=ROOT, env=env, stderr=file)


def wait_for_in_flight(client: httpx.Client, count: int, calls: Sequence[Future[Any]]) -> None:
    """Waits until so many requests are accepted and not answered, none of them these calls."""
    while not re.search(rf"^cam_in_flight {count}(\.0)?$", client.get("/metrics").text, flags=re.MULTILINE):
        assert not any(call.done() for call in calls), "a call was answered before all were in flight"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def serving(folder: Path, *options: str, ready: bool = True, **settings: object) -> Iterator[Service]:
    """Runs the service with these options until the context ends; its socket is open.

    Its networks are loaded, unless it need not be `ready`.

    Beside the catalogue it knows networks of random weights: `small`, a ResNet-18 with the ten `LABELS`; `vit`, a
    transformer of six narrow blocks that pools by class token; `pair`, another one with two classes; `gated`, a
    MobileNetV3 with hard sigmoids; and `dense`, a DenseNet whose last ReLU is no module.
    """
    config, log = folder / "networks.toml", folder / "log.txt"
    config.write_text(_NETWORKS, encoding="utf-8")
    with until_end(start(environment(config=config, **settings), log, *options), log) as service:
        if ready:
            service.wait_until_ready()
        yield service


@contextmanager
def until_end(process: subprocess.Popen[bytes], log: Path) -> Iterator[Service]:
    """A service that was just started with this log; it ends with the context."""
    try:
        yield Service(process, _url(process, log), log)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _url(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < deadline:
        found = re.search(r"running on (http://[\w.:]+)", log.read_text())
        if found:
            return found[1]
        time.sleep(0.02)
    raise AssertionError(f"the service did not start: {log.read_text()}")


def log_line(log: Path, **facts: object) -> dict[str, Any]:
    """Waits for the line of the log that says all this; a reply may arrive before its line."""
    deadline = time.monotonic() + _START_S
    while True:
        for line in log.read_text(encoding="utf-8").splitlines():
            said = json.loads(line)
            if facts.items() <= said.items():
                assert isinstance(said, dict)
                return said
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)

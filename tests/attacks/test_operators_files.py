"""Files that an operator names, and that have no end, or no beginning: the service ends with one line."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from testing.serving import environment, start


def configured(folder: Path, entry: str) -> dict[str, object]:
    (folder / "networks.toml").write_text(f"[networks.birds]\narchitecture = 'torchvision:resnet18'\n{entry}\n")
    return {"config": folder / "networks.toml", "models": "birds"}


def pipe_for_keys(folder: Path) -> dict[str, object]:
    os.mkfifo(folder / "keys")
    return {"api_keys_file": folder / "keys"}


def pipe_for_networks(folder: Path) -> dict[str, object]:
    os.mkfifo(folder / "networks.toml")
    return {"config": folder / "networks.toml"}


def long_labels(folder: Path) -> dict[str, object]:
    (folder / "labels.txt").write_text("label\n" * 2_000_000)
    return configured(folder, "weights = 'random'\nlabels = 'labels.txt'")


def lying_weights(folder: Path) -> dict[str, object]:
    (folder / "birds.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}")
    return configured(folder, "weights = 'birds.safetensors'")


@pytest.mark.parametrize(
    ("make", "status", "message"),
    [
        (pipe_for_keys, 2, "is not a regular file"),
        (pipe_for_networks, 1, "is not a regular file"),
        (long_labels, 1, "is larger than"),
        (lying_weights, 1, "is not a complete safetensors file"),
    ],
)
def test_a_mistake_in_a_file_ends_the_service_with_one_line(
    tmp_path: Path, make: Callable[[Path], dict[str, object]], status: int, message: str
) -> None:
    log = tmp_path / "log.txt"
    process = start(environment(**make(tmp_path)), log)
    started = time.monotonic()
    try:
        assert process.wait(120) == status
    finally:
        process.kill()
        print(f"{time.monotonic() - started:.1f} s")
    (line,) = [line for line in map(json.loads, log.read_text().splitlines()) if line["level"] == "ERROR"]
    assert message in line["message"]
    assert len(line["message"]) < 1000
    assert "Traceback" not in log.read_text()

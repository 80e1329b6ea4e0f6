"""Runs of `python -m app evaluate --engine ray`, and clusters for them; isolated from whatever else uses Ray here."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.evaluation.data import ROOT, environment, shards
from tests.processes import descendants, end

DEADLINE_S = 150
ACTOR = "ray::MapWorker"
TOKEN = "5" * 64


@dataclass
class Running:
    """A run on Ray."""

    process: subprocess.Popen[str]
    out: Path

    def ends(self) -> tuple[int, str]:
        """Waits; returns the exit status and all that was said."""
        said, _ = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, said

    def wait_for(self, what: Callable[[], object]) -> None:
        """Waits until something is so, in mid-run."""
        deadline = time.monotonic() + DEADLINE_S
        while not what():
            assert self.process.poll() is None, self.ends()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def has_written(self, count: int) -> bool:
        return self.out.exists() and len(shards(self.out)) >= count


@contextmanager
def started(
    ray_folder: Path, out: Path, *options: object, token: str | None = None, **settings: object
) -> Iterator[Running]:
    """A run on Ray with these options; neither it nor anything that it has started outlives the block."""
    env = {name: value for name, value in environment(**settings).items() if not name.startswith("RAY_")}
    env |= {"RAY_TMPDIR": str(ray_folder), "HOME": str(ray_folder)}
    if token is not None:
        env["RAY_AUTH_TOKEN"] = token
    command = [sys.executable, "-m", "app", "evaluate", *map(str, options), "--out", str(out), "--engine", "ray"]
    process = subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    seen: set[int] = set()
    try:
        yield Running(process, out)
    finally:
        seen |= set(descendants(process.pid))
        if process.poll() is None:
            process.kill()
        process.communicate()
        for pid in seen:
            end(pid)


def actors(pid: int) -> list[int]:
    return [child for child, line in descendants(pid).items() if line.startswith(ACTOR)]


def wait_until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def outside(address: str, ray_folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Somebody else tries to join."""
    program = f"import ray; ray.init(address={address!r}, logging_level='ERROR'); print('joined')"
    env = {name: value for name, value in environment().items() if not name.startswith("RAY_")}
    env |= {"HOME": str(ray_folder / "nobody"), "RAY_USAGE_STATS_ENABLED": "0"} | variables
    return subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )


@contextmanager
def two_nodes(ray_folder: Path) -> Iterator[tuple[subprocess.Popen[str], str, list[int]]]:
    """A cluster of two nodes; its process, its address and the process of each node's raylet."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env |= {"RAY_TMPDIR": str(ray_folder), "HOME": str(ray_folder), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    env |= {"RAY_USAGE_STATS_ENABLED": "0"}
    with (ray_folder / "log").open("w") as log:
        cluster = subprocess.Popen(
            [sys.executable, "-m", "tests.evaluation.cluster", str(ray_folder)],
            cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
    seen: set[int] = set()
    try:
        assert cluster.stdout
        told = json.loads(cluster.stdout.readline() or "null")
        assert told, (ray_folder / "log").read_text()
        yield cluster, told["address"], told["raylets"]
        seen |= set(descendants(cluster.pid))
        cluster.communicate(timeout=DEADLINE_S)
    finally:
        seen |= set(descendants(cluster.pid))
        cluster.kill()
        cluster.wait()
        for pid in seen:
            end(pid)

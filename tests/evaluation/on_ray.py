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

from testing.serving import ROOT, environment
from tests.evaluation.data import Run, shards
from tests.processes import descendants, end

# Nothing is measured by it: a machine that is busy with other work takes minutes.
DEADLINE_S = 600
ACTOR = "ray::MapWorker"
TOKEN = "5" * 64


# Ray's workers are nice to all other processes: beside other tests they would hardly get on.
IMPATIENT = {"RAY_worker_niceness": "0"}


@dataclass
class Running:
    """A run on Ray."""

    process: Run
    out: Path

    def ends(self) -> tuple[int, str]:
        """Waits; returns the exit status and all that was said."""
        return self.process.wait(DEADLINE_S)

    def wait_for(self, what: Callable[[], object]) -> None:
        """Waits until something is so, in mid-run."""
        deadline = time.monotonic() + DEADLINE_S
        while not what():
            assert self.process.status is None, self.ends()
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
    env |= {"RAY_TMPDIR": str(ray_folder), "HOME": str(ray_folder), **IMPATIENT}
    if token is not None:
        env["RAY_AUTH_TOKEN"] = token
    process = Run(["evaluate", *map(str, options), "--out", str(out), "--engine", "ray"], env)
    seen: set[int] = set()
    try:
        yield Running(process, out)
    finally:
        seen |= set(descendants(process.pid))
        if process.status is None:
            process.kill()
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


@dataclass
class TwoNodes:
    """A cluster.

    Attributes:
        folder: of its files.
        address: its own.
        raylets: the process of each node's raylet.
    """

    folder: Path
    address: str
    raylets: list[int]
    _process: subprocess.Popen[str]

    def lose_one(self) -> None:
        """Takes the second node away."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write("remove\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "removed\n"


@contextmanager
def two_nodes(ray_folder: Path) -> Iterator[TwoNodes]:
    """A cluster of two nodes."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env |= {"RAY_TMPDIR": str(ray_folder), "HOME": str(ray_folder), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    # Not in the folder of the runs: their relative paths lead nowhere here.
    env |= {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT), **IMPATIENT}
    with (ray_folder / "log").open("w") as log:
        cluster = subprocess.Popen(
            [sys.executable, "-m", "tests.evaluation.cluster", str(ray_folder)],
            cwd=ray_folder, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
    seen: set[int] = set()
    try:
        assert cluster.stdout
        told = json.loads(cluster.stdout.readline() or "null")
        assert told, (ray_folder / "log").read_text()
        yield TwoNodes(ray_folder, told["address"], told["raylets"], cluster)
        seen |= set(descendants(cluster.pid))
        cluster.communicate(timeout=DEADLINE_S)
    finally:
        seen |= set(descendants(cluster.pid))
        cluster.kill()
        cluster.wait()
        for pid in seen:
            end(pid)

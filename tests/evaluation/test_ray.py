"""`python -m app evaluate --engine ray`: the same files as the embedded engine's, whatever dies meanwhile."""

import os
import re
import signal
from pathlib import Path

import pytest

from tests.evaluation.data import IMAGES, OPTIONS, SHARDS, shards
from tests.evaluation.on_ray import actors, outside, started, wait_until
from tests.processes import descendants, end


def test_ray_writes_the_same_files_and_says_nothing_of_its_own(
    many_images: Path, small_config: Path, expected: dict[str, bytes], ray_folder: Path, tmp_path: Path
) -> None:
    with started(ray_folder, tmp_path / "out", "--data", many_images, *OPTIONS, config=small_config) as running:
        running.wait_for(lambda: actors(running.process.pid))
        processes = descendants(running.process.pid)
        (server,) = [pid for pid, line in processes.items() if "gcs_server" in line.split()[0]]
        variables = Path(f"/proc/{server}/environ").read_text().split("\0")
        assert {"RAY_USAGE_STATS_ENABLED=0", "RAY_AUTH_MODE=token"} <= set(variables)
        address = next(found[1] for line in processes.values() if (found := re.search(r"--gcs-address=(\S+)", line)))
        # The cluster lasts as long as the work does.
        (actor,) = actors(running.process.pid)
        os.kill(actor, signal.SIGSTOP)
        stranger = outside(address, ray_folder, RAY_AUTH_MODE="disabled")
        assert stranger.returncode != 0, stranger
        assert "joined" not in stranger.stdout
        assert "uthenticat" in stranger.stderr, stranger
        os.kill(actor, signal.SIGCONT)
        status, said = running.ends()
        assert status == 0, said
        assert shards(running.out) == expected
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in processes))
    bars = [line for line in re.split(r"[\r\n]+", said) if line]
    assert all(re.search(rf"\d+/{IMAGES + 1} \[", line) for line in bars), said
    assert f"{IMAGES + 1}/{IMAGES + 1}" in bars[-1]
    assert not list(ray_folder.rglob("auth_token")), "the token is on the disk"


def test_a_worker_that_is_killed_is_made_up_for(
    many_images: Path, small_config: Path, expected: dict[str, bytes], ray_folder: Path, tmp_path: Path
) -> None:
    with started(ray_folder, tmp_path / "out", "--data", many_images, *OPTIONS, config=small_config) as running:
        running.wait_for(lambda: running.has_written(2))
        (actor,) = actors(running.process.pid)
        end(actor)
        status, said = running.ends()
        assert status == 0, said
        assert not running.has_written(SHARDS + 1)
        assert shards(running.out) == expected


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_on_ray_that_is_stopped_says_how_to_go_on_and_leaves_no_process(
    many_images: Path, small_config: Path, ray_folder: Path, tmp_path: Path, number: signal.Signals
) -> None:
    with started(ray_folder, tmp_path / "out", "--data", many_images, *OPTIONS, config=small_config) as running:
        running.wait_for(lambda: running.has_written(1))
        processes = descendants(running.process.pid)
        running.process.send_signal(number)
        status, said = running.ends()
        assert status == 128 + number, said
        assert "stopped; the same command with --resume goes on" in said
        assert "Traceback" not in said
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in processes))

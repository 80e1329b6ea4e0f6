"""`--engine ray --address`: clusters that are joined, that lose a node, that stand still and that are not there."""

import os
import re
import signal
import socket
from pathlib import Path

import pytest

from tests.evaluation.data import OPTIONS, run, shards
from tests.evaluation.on_ray import TOKEN, actors, started, two_nodes


def test_a_cluster_of_two_nodes_shares_the_work_and_loses_one(
    many_images: Path, small_config: Path, expected: dict[str, bytes], ray_folder: Path, tmp_path: Path
) -> None:
    with two_nodes(ray_folder) as (cluster, address, raylets):
        options = ("--data", many_images, *OPTIONS, "--address", address)
        with started(ray_folder, tmp_path / "out", *options, token="0" * 64, config=small_config) as stranger:
            status, said = stranger.ends()
            assert status == 2, said
            assert f"--address: {address} cannot be joined" in said
            assert not stranger.out.exists()
        with started(ray_folder, tmp_path / "out", *options, token=TOKEN, config=small_config) as running:
            running.wait_for(lambda: all(actors(raylet) for raylet in raylets))
            running.wait_for(lambda: running.has_written(2))
            assert not running.has_written(8)
            assert cluster.stdin
            assert cluster.stdout
            cluster.stdin.write("remove\n")
            cluster.stdin.flush()
            assert cluster.stdout.readline() == "removed\n"
            status, said = running.ends()
            assert status == 0, said
            assert shards(running.out) == expected


def test_a_run_that_stands_still_is_given_up_and_can_be_resumed(
    many_images: Path, small_config: Path, expected: dict[str, bytes], ray_folder: Path, tmp_path: Path
) -> None:
    options = ("--data", many_images, *OPTIONS)
    with started(ray_folder, tmp_path / "out", *options, "--stall", 20, config=small_config) as running:
        running.wait_for(lambda: running.has_written(1))
        (actor,) = actors(running.process.pid)
        os.kill(actor, signal.SIGSTOP)
        status, said = running.ends()
        assert status == 2, said
        assert "small: the cluster has finished nothing for 20 s; --resume goes on when it works again" in said
        assert "Traceback" not in said
    assert len(shards(tmp_path / "out")) < len(expected)
    status, said = run("evaluate", "--out", tmp_path / "out", *options, "--resume", config=small_config)
    assert status == 0, said
    assert shards(tmp_path / "out") == expected


@pytest.mark.parametrize("address", ["127.0.0.1:{free}", "ray://127.0.0.1:10001"])
def test_an_address_without_a_cluster_is_an_error_and_leaves_nothing(
    many_images: Path, small_config: Path, ray_folder: Path, tmp_path: Path, address: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    options = ("--data", many_images, *OPTIONS, "--address", address.format(free=free))
    with started(ray_folder, tmp_path / "out", *options, config=small_config) as running:
        status, said = running.ends()
    assert status == 2
    assert re.fullmatch(r"ERROR: --address: (no cluster answers at|'.*' is no HOST:PORT) .*\n", said), said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_device_that_actors_cannot_have_is_refused(
    many_images: Path, small_config: Path, ray_folder: Path, tmp_path: Path, device: str
) -> None:
    options = ("--data", many_images, *OPTIONS, "--device", device)
    with started(ray_folder, tmp_path / "out", *options, config=small_config) as running:
        status, said = running.ends()
    assert status == 2
    assert "ERROR: --device: " in said
    assert not (tmp_path / "out").exists()

"""`--engine ray --address`: clusters that are joined, that lose a node, that stand still and that are not there."""

import os
import re
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.evaluation.data import OPTIONS, ROOT, SHARDS, rows, run_apart, shards
from tests.evaluation.on_ray import TOKEN, TwoNodes, actors, started, two_nodes


@pytest.fixture(scope="module")
def cluster() -> Iterator[TwoNodes]:
    """Two nodes, of which the last test that uses them takes one away."""
    with (
        tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder,
        two_nodes(Path(folder)) as all_,
    ):
        yield all_


def test_a_cluster_of_others_is_not_joined(
    many_images: Path, small_config: Path, cluster: TwoNodes, tmp_path: Path
) -> None:
    options = ("--data", many_images, *OPTIONS, "--address", cluster.address)
    with started(cluster.folder, tmp_path / "out", *options, token="0" * 64, config=small_config) as stranger:
        status, said = stranger.ends()
    assert status == 2, said
    assert f"--address: {cluster.address} cannot be joined" in said
    assert not stranger.out.exists()


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_device_that_actors_cannot_have_is_refused(
    many_images: Path, small_config: Path, cluster: TwoNodes, tmp_path: Path, device: str
) -> None:
    options = ("--data", many_images, *OPTIONS, "--device", device, "--address", cluster.address)
    with started(cluster.folder, tmp_path / "out", *options, token=TOKEN, config=small_config) as running:
        status, said = running.ends()
    assert status == 2
    assert "ERROR: --device: " in said
    assert not (tmp_path / "out").exists()


def test_a_network_that_cannot_be_loaded_holds_up_nobody(
    many_images: Path, small_config: Path, cluster: TwoNodes, tmp_path: Path
) -> None:
    options = [option if option != "small" else "vgg16,small" for option in OPTIONS]
    # Relative paths, which the workers must find nevertheless.
    paths = {"config": os.path.relpath(small_config, ROOT), "weights_dir": os.path.relpath(tmp_path, ROOT)}
    with started(
        cluster.folder,
        Path(os.path.relpath(tmp_path / "out", ROOT)),
        "--data",
        os.path.relpath(many_images, ROOT),
        *options,
        "--limit",
        4,
        "--address",
        cluster.address,
        token=TOKEN,
        **paths,
    ) as running:
        status, said = running.ends()
    assert status == 1, said
    assert "vgg16 was not evaluated" in said
    assert rows(tmp_path / "out", "small").num_rows > 0


def test_what_the_workers_leave_out_is_told_once(
    many_images: Path, small_config: Path, cluster: TwoNodes, tmp_path: Path
) -> None:
    options = ("--models", "small", "--methods", "cam,gradcam", "--utilities", "pre-softmax", "--batch-size", 1)
    options = (*options, "--limit", 130, "--address", cluster.address)
    with started(
        cluster.folder, tmp_path / "out", "--data", many_images, *options, token=TOKEN, config=small_config
    ) as running:
        status, said = running.ends()
    assert status == 0, said
    assert said.count("'cam' needs a layer that feeds global average pooling") == 1


def test_a_cluster_of_two_nodes_shares_the_work_and_loses_one(
    many_images: Path, small_config: Path, expected: dict[str, bytes], cluster: TwoNodes, tmp_path: Path
) -> None:
    options = ("--data", many_images, *OPTIONS, "--address", cluster.address)
    with started(cluster.folder, tmp_path / "out", *options, token=TOKEN, config=small_config) as running:
        running.wait_for(lambda: all(actors(raylet) for raylet in cluster.raylets))
        running.wait_for(lambda: running.has_written(2))
        assert not running.has_written(SHARDS)
        cluster.lose_one()
        status, said = running.ends()
        assert status == 0, said
        assert shards(running.out) == expected


def test_a_run_that_stands_still_is_given_up_and_can_be_resumed(
    many_images: Path, small_config: Path, expected: dict[str, bytes], ray_folder: Path, tmp_path: Path
) -> None:
    options = ("--data", many_images, *OPTIONS)
    with started(ray_folder, tmp_path / "out", *options, "--stall", 45, config=small_config) as running:
        running.wait_for(lambda: running.has_written(1))
        (actor,) = actors(running.process.pid)
        os.kill(actor, signal.SIGSTOP)
        status, said = running.ends()
        assert status == 2, said
        assert "small: the cluster has finished nothing for 45 s; --resume goes on when it works again" in said
        assert "Traceback" not in said
    assert len(shards(tmp_path / "out")) < len(expected)
    status, said = run_apart("evaluate", "--out", tmp_path / "out", *options, "--resume", config=small_config)
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

"""What the tests on Ray share."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.evaluation.data import many, run, shards, small_network
from tests.evaluation.on_ray import IMAGES, OPTIONS


@pytest.fixture(scope="session")
def many_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return many(tmp_path_factory.mktemp("many"), IMAGES)


@pytest.fixture(scope="session")
def small_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_network(tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="session")
def expected(many_images: Path, small_config: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the embedded engine writes."""
    out = tmp_path_factory.mktemp("embedded") / "out"
    status, said = run("evaluate", "--data", many_images, "--out", out, *OPTIONS, config=small_config)
    assert status == 0, said
    found = shards(out)
    assert len(found) == 8
    return found


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Where Ray keeps its sockets, whose paths must be short."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        yield Path(folder)

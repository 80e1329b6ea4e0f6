"""What an undisturbed run makes of many small images, for all that disturb one."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.evaluation.data import IMAGES, OPTIONS, SHARDS, many, run_apart, shards, small_network


@pytest.fixture(scope="package")
def many_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return many(tmp_path_factory.mktemp("many"), IMAGES)


@pytest.fixture(scope="package")
def small_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_network(tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="package")
def undisturbed(many_images: Path, small_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the embedded engine; to be read only."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    status, said = run_apart("evaluate", "--data", many_images, "--out", out, *OPTIONS, config=small_config)
    assert status == 0, said
    return out


@pytest.fixture(scope="package")
def expected(undisturbed: Path) -> dict[str, bytes]:
    """All files that it writes."""
    found = shards(undisturbed)
    assert len(found) == SHARDS
    return found


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Where Ray keeps its sockets, whose paths must be short."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        yield Path(folder)

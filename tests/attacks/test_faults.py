"""What goes wrong around the service: memory, disks, clocks, and callers who never finish what they began."""

import asyncio
import json
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from service_models.errors import WeightsError
from service_models.hub import HubFile, fetch
from testing.faults.callers import idle_connections, slow_uploads, who_never_read
from testing.faults.machines import clock_jump, killed_children, short_of_memory
from testing.faults.preload import COMPILER, SCARCE_MEMORY, WALL_CLOCK
from testing.faults.scene import Inject, Scene, breakable, happen
from testing.mirror import Mirror, serve
from testing.serving import Service

CONTENT = b"parameters" * 30_000
LIMIT_BYTES = 2**17


@contextmanager
def files_of_at_most(limit_bytes: int) -> Iterator[None]:
    """As on a disk that is full: what is written beyond fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with serve() as mirror:
        yield mirror


def plain(mirror: Mirror) -> HubFile:
    mirror.files["/models/net.pth"] = CONTENT
    return HubFile("torchvision/V1", f"{mirror.url}/models/net.pth")


def in_repository(mirror: Mirror) -> HubFile:
    path = "/timm/net/resolve/main/model.safetensors"
    mirror.files[path] = CONTENT
    return HubFile("timm/a", mirror.url + path, "timm/net", ("model.safetensors",))


SOURCES = pytest.mark.parametrize("source", [plain, in_repository])


@SOURCES
def test_weights_for_which_the_disk_has_no_room_are_not_kept_in_part(
    mirror: Mirror, tmp_path: Path, source: Callable[[Mirror], HubFile]
) -> None:
    file = source(mirror)
    for _ in range(2):
        with files_of_at_most(LIMIT_BYTES), pytest.raises(WeightsError, match=f"cannot be kept in {tmp_path}.*large"):
            fetch(file, mirror.url, tmp_path)
        left = [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size > 1000]
        assert left == []
    assert fetch(file, mirror.url, tmp_path).read_bytes() == CONTENT


@SOURCES
def test_a_cache_that_cannot_be_made_is_named(
    mirror: Mirror, tmp_path: Path, source: Callable[[Mirror], HubFile]
) -> None:
    file = source(mirror)
    (tmp_path / "file").write_bytes(b"no folder")
    with pytest.raises(WeightsError, match=r"cannot be kept in .*file/cache \(Not a directory\): .*(HF|TORCH)_HOME"):
        fetch(file, mirror.url, tmp_path / "file" / "cache")


# No answer is judged by its time, and none may be refused for it on a busy machine.
PATIENT = {"trunk": "eager", "timeout_s": 600}
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, Path]]:
    """A service and the folder of its files; it may have as many descriptors as a process usually may."""
    folder = tmp_path_factory.mktemp("patient")
    with breakable(folder, descriptors=1024, **PATIENT) as service:
        yield service, folder


def run(inject: Inject, service: Service, folder: Path) -> tuple[Scene, str]:
    scene, told = asyncio.run(happen(inject, service, folder, calm_s=1.0, until=Scene.is_right_again))
    print(told, scene.seen(), scene.worst_ms())
    return scene, told


def outcomes(scene: Scene) -> set[str]:
    return {answer.outcome for answer in scene.answers}


def last_are_right(scene: Scene) -> bool:
    return all(answer.is_right for answer in scene.answers[-5:])


@needs_compiler
def test_want_of_memory_is_answered_and_passes(tmp_path: Path) -> None:
    with breakable(tmp_path, SCARCE_MEMORY, **PATIENT) as service:
        scene, told = run(partial(short_of_memory, count=4), service, tmp_path)
    assert "503 worker_failed" in told
    assert not any(outcome in told for outcome in ("lost", "refused", "500"))
    assert not outcomes(scene) & {"lost", "refused", "wrong", "500"}
    assert last_are_right(scene)


@needs_compiler
def test_a_clock_that_jumps_changes_nothing(tmp_path: Path) -> None:
    with breakable(tmp_path, WALL_CLOCK, **PATIENT) as service:
        scene, told = run(clock_jump, service, tmp_path)
    assert told.endswith("200; the service's Date moved by +5.0 h, -24.0 h")
    assert all(answer.is_right for answer in scene.answers)


def test_uploads_that_do_not_end_are_given_up_and_others_are_answered(tmp_path: Path) -> None:
    # Calls that wait for their turn have the same limit as uploads: it must leave them time on a busy machine.
    with breakable(tmp_path, trunk="eager", timeout_s=20) as service:
        scene, told = run(slow_uploads, service, tmp_path)
        log = service.log.read_text()
    assert "a byte a second: 20 x 504 timeout" in told
    assert "stopped in the middle: 15 x 504 timeout" in told
    assert all(answer.is_right for answer in scene.answers)
    assert "Traceback" not in log


def test_connections_that_never_ask_are_closed_and_others_are_answered(patient: tuple[Service, Path]) -> None:
    # More than a process may usually have open.
    scene, told = run(idle_connections, *patient)
    assert "silent: 1000 x closed" in told
    assert "half a header: 100 x closed" in told
    assert "a header at a byte a second: 100 x closed" in told
    before, most, after = (int(part.split()[-1]) for part in told.rpartition("descriptors ")[2].split(","))
    assert most > 1200
    assert after < before + 20
    assert all(answer.is_right for answer in scene.answers)


def test_replies_that_nobody_reads_are_taken_back(patient: tuple[Service, Path]) -> None:
    scene, told = run(partial(who_never_read, callers=4), *patient)
    assert "4 x closed" in told
    assert all(answer.is_right for answer in scene.answers)


def test_decoders_that_are_killed_are_replaced(patient: tuple[Service, Path]) -> None:
    scene, _ = run(killed_children, *patient)
    wrong = [answer.outcome for answer in scene.answers if not answer.is_right]
    # Either a picture was in its hands, or none could be started in time.
    assert set(wrong) <= {"422", "503"}
    assert last_are_right(scene)
    log = [json.loads(line) for line in scene.service.log.read_text().splitlines()]
    assert not [line for line in log if line.get("exc_info")]

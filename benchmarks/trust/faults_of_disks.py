"""A disk that is full when the weights of a network are fetched: start-up fails, and the next one is not misled."""

import io
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

import httpx
import timm
from safetensors.torch import save

from testing.mirror import Mirror, serve
from testing.serving import environment, start, until_end

NETWORK, REPOSITORY = "convnext_atto", "timm/convnext_atto.d2_in1k"
_FILE = f"/{REPOSITORY}/resolve/main/model.safetensors"
_SMALL, _LARGE = "1m", "64m"
_GIVE_UP_S = 120
_MOUNT, _UMOUNT = "/bin/mount", "/bin/umount"


@contextmanager
def hub() -> Iterator[Mirror]:
    """A hub on this machine that has the weights of one network."""
    with serve() as mirror:
        model = timm.create_model(NETWORK, pretrained=False)
        mirror.files[_FILE] = save({name: value.contiguous() for name, value in model.state_dict().items()})
        yield mirror


def at(mirror: Mirror, cache: Path) -> dict[str, str]:
    """The variables that lead the hub's client there."""
    return {"HF_ENDPOINT": mirror.url, "HF_HOME": str(cache), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


@contextmanager
def disk(folder: Path) -> Iterator[Path]:
    """A file system of one MiB.

    Raises:
        PermissionError: only root may mount.
    """
    place = folder / "disk"
    place.mkdir()
    mounted = subprocess.run([_MOUNT, "-t", "tmpfs", "-o", f"size={_SMALL}", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        raise PermissionError(mounted.stderr.decode())
    try:
        yield place
    finally:
        subprocess.run([_UMOUNT, place], check=True)


def full_disk() -> list[tuple[str, str]]:
    """Starts the service with its cache on a full disk, and again when that has room.

    Returns:
        What was tried, and what came of it.
    """
    with tempfile.TemporaryDirectory() as name, hub() as mirror, disk(Path(name)) as place:
        folder = Path(name)
        variables = at(mirror, place)
        # The hub complains of a client who hangs up.
        with redirect_stderr(io.StringIO()):
            rows = [("weights cache on a full disk", _failed_start(folder, place, variables))]
        subprocess.run([_MOUNT, "-o", f"remount,size={_LARGE}", place], check=True)
        started = time.monotonic()
        log = folder / "log.txt"
        with until_end(start(environment(models=NETWORK) | variables, log), log) as service:
            service.wait_until_ready()
            weights = httpx.get(f"{service.url}/v1/models/{NETWORK}").json()["weights"]
        rows.append(("the same when there is room", f"ready after {time.monotonic() - started:.0f} s with {weights}"))
    return rows


def _failed_start(folder: Path, place: Path, variables: Mapping[str, str]) -> str:
    started = time.monotonic()
    log = folder / "log.txt"
    process = start(environment(models=NETWORK) | dict(variables), log)
    try:
        status = process.wait(_GIVE_UP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return f"still there after {_GIVE_UP_S} s"
    left = [path.name for path in place.rglob("*") if path.is_file() and path.stat().st_size > 10_000]
    seconds = time.monotonic() - started
    said = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    errors = [line["message"] + ("with a traceback" if line.get("exc_info") else "") for line in said
              if line["level"] == "ERROR"]  # fmt: skip
    return f"ended with {status} after {seconds:.0f} s, left {left or 'nothing'}: {'; '.join(errors)}"

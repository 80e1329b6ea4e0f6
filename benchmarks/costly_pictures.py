"""`python -m benchmarks.costly_pictures`: processor time that the most costly pictures take, beside honest large ones.

Each file is read as a decoding child reads it (`open_image`, `load_image`), in a process of its own, whose processor
time and memory are the system's figures. One that takes more than 20 s of it is ended.
"""

import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure import row, table
from testing.attacks import bombs, bombs_of_tables
from testing.pictures import encoded, photograph

_LIMIT_S = 20
_READ = """
import resource, sys, time
from PIL import AvifImagePlugin
from app.imaging.decode import load_image, open_image
from app.errors import ImageError
AvifImagePlugin.DEFAULT_MAX_THREADS = 1
resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[2]), -1))
resource.setrlimit(resource.RLIMIT_AS, ((32 * 64_000_000 + (256 << 20)), -1))
data = open(sys.argv[1], "rb").read()
started = time.process_time()
try:
    picture = load_image(open_image(data, 64_000_000))
    said = f"read, {picture.width} x {picture.height}"
except (ImageError, MemoryError) as error:
    said = f"{type(error).__name__}: {error}"
seconds = time.process_time() - started
kib = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
print(f"{seconds:.2f}|{kib / 1024:.0f}|{said}")
"""

Maker = Callable[[], bytes]


def hostile() -> Iterator[tuple[str, Maker]]:
    """Every kind of costly file."""
    for module in (bombs, bombs_of_tables):
        for name, maker in vars(module).items():
            if not name.startswith("_") and name != "saved" and getattr(maker, "__module__", "") == module.__name__:
                yield name.replace("_", " "), maker


def honest() -> Iterator[tuple[str, Maker]]:
    """Photographs of 64 megapixels, one for each way of storing them."""
    photo = photograph("coffee").resize((9798, 6530))
    kinds: dict[str, dict[str, Any]] = {
        "JPEG": {"quality": 90},
        "JPEG progressive": {"quality": 90, "progressive": True},
        "PNG": {"compress_level": 1},
        "WEBP": {"quality": 80, "method": 0},
        "WEBP lossless": {"lossless": True, "method": 0, "quality": 0},
        "GIF": {},
        "TIFF JPEG": {"compression": "jpeg", "quality": 90},
        "AVIF": {"speed": 10, "quality": 60},
    }
    for name, options in kinds.items():
        yield f"photograph, {name}", partial(encoded, photo, name.split()[0], **options)


def measure(data: bytes, folder: Path, root: Path) -> tuple[str, str, str]:
    """Reads a file; seconds, MiB and what became of it."""
    file = folder / "picture"
    file.write_bytes(data)
    command = [sys.executable, "-c", _READ, str(file), str(_LIMIT_S)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode == -signal.SIGXCPU:
        return f"over {_LIMIT_S}", "", "ended"
    if done.returncode:
        return "", "", f"broke its reader: {done.stderr.strip().rpartition(chr(10))[2] or done.returncode}"
    seconds, mib, said = done.stdout.strip().split("|", 2)
    return seconds, mib, said


def main() -> None:
    """Measures all of them, or those whose names hold the first argument; a second one names another source tree."""
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    root = Path(sys.argv[2]) if len(sys.argv) > 2 else Path.cwd()
    print("\n".join(table("file", "MiB", "processor time in s", "memory in MiB", "answer")))
    with tempfile.TemporaryDirectory() as folder:
        for name, maker in [*hostile(), *honest()]:
            if wanted in name:
                data = maker()
                row(name, f"{len(data) / 2**20:.3f}", *measure(data, Path(folder), root))


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()

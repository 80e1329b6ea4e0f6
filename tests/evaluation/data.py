"""Data sets of photographs inside the scikit-image package, and evaluations of them."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
from PIL import Image

from app.evaluation.store import Results
from tests.imaging.pictures import encoded, noise, photograph

ROOT = Path(__file__).parents[2]
EMBEDDED = "tf_efficientnet_lite0"
# Eight shards of small images, some of which cannot be read.
IMAGES = 500
OPTIONS = ("--models", "small", "--batch-size", 4, "--methods", "gradcam,shapleycam,randomcam", "--layers", "pre_gap")
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
# Egyptian cat, espresso, missile; the astronaut's suit is no class of its own.
LABELS = {"chelsea": 285, "coffee": 967, "rocket": 657, "astronaut": 652}


def photographs(folder: Path) -> Path:
    """A folder of four."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in PHOTOGRAPHS:
        (folder / f"{name}.png").write_bytes(encoded(photograph(name), "PNG"))
    return folder


def many(folder: Path, count: int) -> Path:
    """A folder of small pictures, some of which cannot be read."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(PHOTOGRAPHS)
    for number in range(count):
        picture = photograph(names[number % 4]).rotate(7 * number).resize((120, 96), Image.Resampling.BILINEAR)
        content = encoded(picture, "JPEG")
        (folder / f"{number:04d}.jpg").write_bytes(content[:400] if number % 7 == 3 else content)
    (folder / f"{count:04d}.png").write_bytes(encoded(noise(4, 4, 3), "PNG"))
    return folder


def small_network(folder: Path) -> Path:
    """A configuration with a small lively random network of 64 x 64 px."""
    path = folder / "networks.toml"
    path.write_text(
        '[networks.small]\narchitecture = "torchvision:resnet18"\nweights = "random"\n'
        "classes = 10\npreprocessing = {input_size = [64, 64], resize_size = 72}\n"
    )
    return path


def environment(**settings: object) -> dict[str, str]:
    """That of this process, with no other settings than these, on the processor."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CAM_")}
    return kept | {"CAM_DEVICE": "cpu"} | {f"CAM_{name.upper()}": str(value) for name, value in settings.items()}


def start(*arguments: object, **settings: object) -> subprocess.Popen[str]:
    """Starts `python -m app` with these arguments."""
    command = [sys.executable, "-m", "app", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment(**settings), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def run(*arguments: object, **settings: object) -> tuple[int, str]:
    """Runs `python -m app`; returns its exit status and all it said."""
    process = start(*arguments, **settings)
    said, _ = process.communicate(timeout=600)
    return process.returncode, said


def kill(process: subprocess.Popen[str]) -> None:
    """Ends it as a lack of memory or of current would."""
    process.send_signal(signal.SIGKILL)
    process.communicate()


def rows(out: Path, network: str) -> pa.Table:
    return Results(out).read(network)


def shards(out: Path) -> dict[str, bytes]:
    """All Parquet files of a folder of results, by their names."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.parquet"))}


def naive_rows(folder: Path, job: dict[str, object]) -> list[dict[str, object]]:
    """What a plain loop around the `grad-cam` package finds, in a process of its own: the package leaks."""
    request, result = folder / "job.json", folder / "naive.json"
    request.write_text(json.dumps(job | {"result": str(result)}))
    subprocess.run([sys.executable, "-m", "tests.evaluation.naive", str(request)], check=True, cwd=ROOT)
    found: list[dict[str, object]] = json.loads(result.read_text())["rows"]
    return found

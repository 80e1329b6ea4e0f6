"""All parts of the benchmarks, and the page that they are written to."""

import argparse
import datetime
import gc
import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import timm
import torch
import torchvision
from torch import Tensor

from app.cam.engine import explain
from app.cam.methods import METHODS
from app.cam.questions import Question
from app.cam.utilities import UTILITIES
from benchmarks import device, engine, service
from benchmarks.bare import BareForward, prepared_environment, user_environment
from benchmarks.measure import DEVICE, EMBEDDED, benchmark_images, fast_split, row, shown, table

RESULTS = Path(__file__).parent / "RESULTS.md"
OTHERS = "# Results of `benchmarks/trust`"
MASKING_CELLS = (
    ("resnet50", "last_conv", "ablationcam"),
    ("resnet50", "pre_gap", "ablationcam"),
    ("resnet50", "last_conv", "scorecam"),
    (EMBEDDED, "last_conv", "scorecam"),
)


def main() -> None:
    """Runs all parts, or those that are named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument(
        "--repeats", type=int, default=9, help="ratios behind each median (batch 1: four times as many)"
    )
    parser.add_argument("--phase", type=float, default=20, help="seconds of each load")
    parser.add_argument("--storm", type=float, default=60, help="seconds of overload")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--parts", help="comma-separated; by default all, `device` on a GPU only")
    arguments = parser.parse_args()
    repeats = arguments.repeats
    parts: dict[str, Callable[[], str]] = {
        "explanations": lambda: engine.explanations(repeats),
        "peers": lambda: engine.peers(max(3, repeats // 3)),
        "shares": lambda: service.shares(repeats),
        "load": lambda: service.load(repeats, arguments.phase),
        "overload": lambda: service.overload(arguments.storm),
        "masking": lambda: _masking(max(1, repeats // 3)),
        "memory": _memory,
        "device": lambda: device.throughput(repeats),
    }
    default = [name for name in parts if name != "device" or DEVICE.type == "cuda"]
    chosen = arguments.parts.split(",") if arguments.parts else default
    text, kept = _heading(), _kept(arguments.out)
    for name in chosen:
        text += "\n" + parts[name]()
        # Written as it comes, so that a run that is cut short has its figures.
        arguments.out.write_text(text + kept)
    print(f"written to {arguments.out}")


def _kept(page: Path) -> str:
    """The part of the page that other commands' figures are put into by hand."""
    text = page.read_text() if page.exists() else ""
    start = text.find(f"\n{OTHERS}\n")
    return text[start:] if start >= 0 else ""


def _heading() -> str:
    where = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "CPU; no GPU was at hand"
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__}"
    return "\n".join(
        (
            "# Results of `make bench`",
            "",
            f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {platform.processor() or platform.machine()}, "
            f"{torch.get_num_threads()} threads, Python {platform.python_version()}, {versions}. {where}.",
            "",
            "Every figure is a ratio of times measured in turn in one run, as median (smallest to largest), unless it "
            "has a unit. What is ours runs in a process prepared as the service prepares its own (`app/process.py`).",
            "",
        )
    )


def _masking(repeats: int) -> str:
    lines = [
        "## Masking methods here and in `grad-cam`",
        "",
        "One image, 2,048 channels (resnet50) or 1,280; each in a process of its own; time over a "
        "bare forward pass of one image, and resident memory in MiB before and at the peak.",
        "",
        *table("network", "layer", "method", "here", "`grad-cam`", "times faster", "MiB here", "MiB in `grad-cam`"),
    ]
    for name, layer, method in MASKING_CELLS:
        ours, theirs = (_mask(side, name, layer, method, repeats) for side in ("ours", "theirs"))
        with BareForward(name, 1) as bare:
            forward = statistics.median(bare.seconds() for _ in range(9))
        faster = statistics.median(theirs["seconds"]) / statistics.median(ours["seconds"])
        times = (shown([taken / forward for taken in side["seconds"]]) for side in (ours, theirs))
        memory = (f"{side['before_mib'][0]:.0f} to {side['peak_mib'][0]:.0f}" for side in (ours, theirs))
        lines.append(row(name, f"`{layer}`", f"`{method}`", *times, f"{faster:.3g}", *memory))
    return "\n".join([*lines, ""])


def _mask(side: str, name: str, layer: str, method: str, repeats: int) -> dict[str, list[float]]:
    command = [sys.executable, "-m", "benchmarks.masking", side, name, layer, method, str(repeats)]
    environment = user_environment() if side == "theirs" else prepared_environment()
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    found = json.loads(output.splitlines()[-1])
    return {key: value if isinstance(value, list) else [float(value)] for key, value in found.items()}


def _memory() -> str:
    """Resident memory over 1,000 explanations with metrics."""
    split = fast_split(EMBEDDED, "last_conv")
    images = benchmark_images(1)
    question = [Question(0, METHODS["shapleycam"], UTILITIES["rest"])]
    readings = []
    for number in range(1000):
        explain(split, images, question)
        if number % 100 == 99:
            gc.collect()
            readings.append(_resident_mib())
    tensors = sum(issubclass(type(item), Tensor) for item in gc.get_objects())
    readings_shown = ", ".join(f"{reading:.0f}" for reading in readings)
    print(readings_shown)
    return "\n".join(
        (
            "## Memory over 1,000 explanations",
            "",
            "Embedded network, `shapleycam` at `last_conv` with metrics, batch 1; resident MiB after each hundred:",
            f"{readings_shown}. Tensors alive at the end: {tensors}.",
            "",
        )
    )


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20

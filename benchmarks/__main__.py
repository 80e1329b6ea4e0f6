"""`make bench`: measures everything in one run and writes benchmarks/RESULTS.md."""

import argparse
import datetime
import gc
import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import timm
import torch
import torchvision
from torch import Tensor

from app.cam.engine import explain
from app.cam.methods import METHODS
from app.cam.questions import Question
from app.cam.split import SplitNetwork
from app.cam.splitting import split_network
from app.cam.utilities import UTILITIES
from benchmarks.gradcam_pipeline import METHODS as PEERS
from benchmarks.measure import bare_forward, benchmark_images, benchmark_network, ratios

RESULTS = Path(__file__).parent / "RESULTS.md"
NETWORKS = ("tf_efficientnet_lite0", "resnet50")
LAYERS = ("pre_gap", "last_conv")
BATCHES = (1, 8)
# CAM takes another utility; Score-CAM has a section of its own.
CHEAP_METHODS = [name for name in METHODS if name not in {"cam", "scorecam"}]
MASKING_CELLS = (
    ("resnet50", "last_conv", "ablationcam"),
    ("resnet50", "pre_gap", "ablationcam"),
    ("resnet50", "last_conv", "scorecam"),
    ("tf_efficientnet_lite0", "last_conv", "scorecam"),
)
# The package keeps every ShapleyCAM graph that it made: a batch of eight would fill the machine.
PEER_CELLS = (("gradcam", 1), ("gradcam", 8), ("shapleycam", 1))


def main() -> None:
    """Runs all parts."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument(
        "--repeats", type=int, default=9, help="ratios behind each median (batch 1: four times as many)"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    parts = [
        _heading(),
        _explanations(arguments.repeats),
        _peers(max(3, arguments.repeats // 3)),
        _masking(max(1, arguments.repeats // 3)),
        _memory(),
    ]
    arguments.out.write_text("\n".join(parts))
    print(f"written to {arguments.out}")


def _heading() -> str:
    cores = torch.get_num_threads()
    return "\n".join(
        (
            "# Results of `make bench`",
            "",
            f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {platform.processor() or platform.machine()}, "
            f"{cores} threads, Python {platform.python_version()}, torch {torch.__version__}, "
            f"torchvision {torchvision.__version__}, timm {timm.__version__}. CPU; no GPU was at hand.",
            "",
            "Every figure is a ratio of times measured in turn in one run, as median (smallest to largest). The "
            "allocator is told to keep its pages (`make bench` sets it for both sides): else the time of a forward "
            "pass jumps with what was freed before it.",
            "",
        )
    )


def _explanations(repeats: int) -> str:
    lines = [
        "## An explanation over one bare forward pass",
        "",
        "Bare forward: `torch.inference_mode()`, eager, same network and batch. *With metrics*: over three such "
        "passes. Targets: at most 1.15 and 1.25 for the gradient methods; for `aumann-shapley` (8 nodes) alone "
        "1.25 at `pre_gap` and 1.6 at `last_conv`; for `shapley-sampling` (256 permutations) 5 at `pre_gap`.",
        "",
        "| network | layer | batch | method | explanation | with metrics |",
        "|---|---|---|---|---|---|",
    ]
    for name in NETWORKS:
        network = benchmark_network(name)
        for layer in LAYERS:
            split = split_network(network.model, network.layers[layer], (224, 224))
            for batch in BATCHES:
                for method in CHEAP_METHODS:
                    count = 4 * repeats if batch == 1 else repeats
                    plain, measured = _cost(split, network.model, method, batch, count)
                    row = f"| {name} | `{layer}` | {batch} | `{method}` | {_median(plain)} | {_median(measured)} |"
                    print(row, flush=True)
                    lines.append(row)
    return "\n".join([*lines, ""])


def _cost(
    split: SplitNetwork, model: torch.nn.Module, method: str, batch: int, repeats: int
) -> tuple[list[float], list[float]]:
    images = benchmark_images(batch)
    questions = [Question(image, METHODS[method], UTILITIES["rest"]) for image in range(batch)]
    forward = bare_forward(model, images)

    def three_forwards() -> None:
        for _ in range(3):
            forward()

    plain = ratios(lambda: explain(split, images, questions, metrics=False), forward, repeats)
    measured = ratios(lambda: explain(split, images, questions, metrics=True), three_forwards, max(3, repeats // 2))
    return plain, measured


def _peers(repeats: int) -> str:
    lines = [
        "## The same work in `grad-cam`",
        "",
        "Its time over one bare forward pass, and over three with its pipeline for the same figures (its own map of "
        "the image, three scores, its own map of the explanation map).",
        "",
        "| network | layer | batch | method | explanation | with metrics |",
        "|---|---|---|---|---|---|",
    ]
    for name in NETWORKS:
        for layer in LAYERS:
            for method, batch in PEER_CELLS:
                plain = _peer(name, layer, method, batch, False, repeats)
                measured = [ratio / 3 for ratio in _peer(name, layer, method, batch, True, repeats)]
                row = f"| {name} | `{layer}` | {batch} | `{method}` | {_median(plain)} | {_median(measured)} |"
                print(row, flush=True)
                lines.append(row)
    return "\n".join([*lines, ""])


def _peer(name: str, layer: str, method: str, batch: int, metrics: bool, repeats: int) -> list[float]:
    assert method in PEERS
    arguments = (name, layer, method, str(batch), str(metrics), str(repeats))
    command = [sys.executable, "-m", "benchmarks.gradcam_pipeline", *arguments]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return list(map(float, json.loads(output.splitlines()[-1])))


def _masking(repeats: int) -> str:
    lines = [
        "## Masking methods here and in `grad-cam`",
        "",
        "One image, 2,048 channels (resnet50) or 1,280; time over a bare forward pass of one image in the same "
        "process, and the memory that it took at its peak beyond the loaded network, in MiB.",
        "",
        "| network | layer | method | here | `grad-cam` | times faster | here, MiB | `grad-cam`, MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, layer, method in MASKING_CELLS:
        ours, theirs = (_mask(side, name, layer, method, repeats) for side in ("ours", "theirs"))
        faster = statistics.median(theirs[0]) / statistics.median(ours[0])
        row = (
            f"| {name} | `{layer}` | `{method}` | {_median(ours[0])} | {_median(theirs[0])} | {faster:.3g} "
            f"| {ours[1]:.0f} | {theirs[1]:.0f} |"
        )
        print(row, flush=True)
        lines.append(row)
    return "\n".join([*lines, ""])


def _mask(side: str, name: str, layer: str, method: str, repeats: int) -> tuple[list[float], float]:
    command = [sys.executable, "-m", "benchmarks.masking", side, name, layer, method, str(repeats)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = json.loads(output.splitlines()[-1])
    return list(map(float, found["ratios"])), float(found["mib"])


def _memory() -> str:
    """Resident memory over 1,000 explanations with metrics."""
    network = benchmark_network("tf_efficientnet_lite0")
    split = split_network(network.model, network.layers["last_conv"], (224, 224))
    images = benchmark_images(1)
    question = [Question(0, METHODS["shapleycam"], UTILITIES["rest"])]
    readings = []
    for number in range(1000):
        explain(split, images, question)
        if number % 100 == 99:
            gc.collect()
            readings.append(_resident_mib())
    tensors = sum(issubclass(type(item), Tensor) for item in gc.get_objects())
    row = ", ".join(f"{reading:.0f}" for reading in readings)
    print(row)
    return "\n".join(
        (
            "## Memory over 1,000 explanations",
            "",
            "Embedded network, `shapleycam` at `last_conv` with metrics, batch 1; resident MiB after each hundred:",
            f"{row}. Tensors alive at the end: {tensors}.",
            "",
        )
    )


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def _median(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()

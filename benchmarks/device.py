"""All networks on the device: explanations a second, their share of the bare forward pass, and memory."""

import statistics

import torch

from app.cam.engine import explain
from app.cam.methods import METHODS
from app.cam.questions import Question
from app.cam.utilities import UTILITIES
from benchmarks.measure import (
    DEVICE,
    bare_forward,
    benchmark_images,
    benchmark_network,
    fast_split,
    row,
    seconds,
    table,
)
from service_models import CATALOGUE

_METHODS = ("gradcam", "shapleycam")
_BATCH = {"cpu": 8, "cuda": 32}[DEVICE.type]


def throughput(repeats: int) -> str:
    """Every network of the catalogue, in float32, without metrics."""
    lines = [
        f"## Every network, batch {_BATCH}, on {DEVICE.type}",
        "",
        "Images a second at `pre_gap`; *of the bare forward*: over those of the eager pass. On a GPU the target "
        "for resnet50 is 0.85.",
        "",
        *table("network", "bare forward", *(f"`{m}`" for m in _METHODS), "of the bare forward", "device memory, MiB"),
    ]
    for name in CATALOGUE:
        lines.append(_row(name, max(3, repeats // 3)))
        benchmark_network.cache_clear()
    return "\n".join([*lines, ""])


def _row(name: str, repeats: int) -> str:
    images = benchmark_images(_BATCH)
    split = fast_split(name, "pre_gap")
    forward = bare_forward(benchmark_network(name).model, images)
    questions = {m: [Question(n, METHODS[m], UTILITIES["rest"]) for n in range(_BATCH)] for m in _METHODS}
    times: dict[str, list[float]] = {"forward": [], **{m: [] for m in _METHODS}}
    for _ in range(repeats + 1):  # the first is for warming up
        times["forward"].append(seconds(forward))
        for method in _METHODS:
            asked = questions[method]
            times[method].append(seconds(lambda asked=asked: explain(split, images, asked, metrics=False)))  # type: ignore[misc]
    rates = {what: _BATCH / statistics.median(taken[1:]) for what, taken in times.items()}
    share = " ".join(f"{rates[method] / rates['forward']:.2f}" for method in _METHODS)
    memory = f"{torch.cuda.max_memory_allocated() / 2**20:.0f}" if DEVICE.type == "cuda" else ""
    return row(name, f"{rates['forward']:.1f}", *(f"{rates[m]:.1f}" for m in _METHODS), share, memory)

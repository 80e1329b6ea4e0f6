"""What an explanation costs over the bare forward pass, here and in `grad-cam` and `torchcam`."""

import json
import statistics
import subprocess
import sys

from app.cam.engine import explain
from app.cam.methods import METHODS
from app.cam.questions import Question
from app.cam.split import SplitNetwork
from app.cam.utilities import UTILITIES
from benchmarks.measure import (
    EMBEDDED,
    bare_forward,
    benchmark_images,
    benchmark_network,
    fast_split,
    ratios,
    row,
    shown,
    table,
)

LAYERS = {
    EMBEDDED: ("pre_gap", "last_conv"),
    "resnet50": ("pre_gap", "last_conv"),
    "swin_tiny_patch4_window7_224": ("pre_gap", "last_norm"),
}
BATCHES = (1, 8, 32)
# Metrics are measured for these alone where the batch is large: they take three passes a time.
LEADING = ("gradcam", "shapleycam")
GRADIENT_METHODS = [name for name, method in METHODS.items() if method.needs & {"gradients", "hvp"}]
GAMES = ("ablationcam", "liftcam", "shapley-sampling", "aumann-shapley")
# The package keeps every ShapleyCAM graph that it made: a larger batch would fill the machine.
PEER_CELLS = (("grad-cam", "gradcam", 8), ("grad-cam", "shapleycam", 1), ("torchcam", "gradcam", 8))

Ratios = tuple[list[float], list[float]]
_measured: dict[tuple[str, str, int, str], Ratios] = {}


def explanations(repeats: int) -> str:
    """Every gradient method, and those of the games that are cheap, over the bare forward pass."""
    lines = [
        "## An explanation over one bare forward pass",
        "",
        "Bare forward: eager, contiguous, `torch.inference_mode()`, the same network and batch; the explanation with "
        "the trunk that the service takes by default. *With metrics*: over three such passes. Batch 8, GradCAM and "
        "ShapleyCAM: at most 0.65 (resnet50, `pre_gap`), 0.75 (`last_conv`), 0.40 and 0.50 (embedded), 0.80 and 0.95 "
        "(swin); with metrics 0.70 (resnet50) and 0.45 (embedded).",
        "",
        *table("network", "layer", "batch", "method", "explanation", "with metrics"),
    ]
    for name, layers in LAYERS.items():
        for layer in layers:
            split = fast_split(name, layer)
            for batch in BATCHES:
                games = GAMES if batch == 1 and "swin" not in name else ()
                for method in (*GRADIENT_METHODS, *games):
                    count = {1: 4 * repeats, 8: repeats}.get(batch, 3)
                    plain, measured = _cost(split, name, method, batch, count)
                    _measured[name, layer, batch, method] = (plain, measured)
                    lines.append(row(name, f"`{layer}`", batch, f"`{method}`", shown(plain), shown(measured)))
    return "\n".join([*lines, ""])


def _cost(split: SplitNetwork, name: str, method: str, batch: int, repeats: int) -> Ratios:
    images = benchmark_images(batch)
    questions = [Question(image, METHODS[method], UTILITIES["rest"]) for image in range(batch)]
    forward = bare_forward(benchmark_network(name).model, images)

    def three_forwards() -> None:
        for _ in range(3):
            forward()

    plain = ratios(lambda: explain(split, images, questions, metrics=False), forward, repeats)
    if batch > 8 and method not in LEADING:
        return plain, []
    return plain, ratios(lambda: explain(split, images, questions), three_forwards, max(3, repeats // 2))


def peers(repeats: int) -> str:
    """The same work in other packages, and how many times faster it is here."""
    lines = [
        "## The same work in `grad-cam` and `torchcam`",
        "",
        "Their time over one bare forward pass, and over three with the pipeline that their calls make for the same "
        "figures (a map of the image, three scores, a map of the explanation map); *times faster* is that over ours "
        "in the table above. At the same batch: GradCAM at least 5 (resnet50) and 8 (embedded), ShapleyCAM 4 and 5; "
        "with metrics 4 and 6.",
        "",
        *table("package", "network", "layer", "batch", "method", "its", "times faster", "with metrics", "times faster"),
    ]
    for package, method, batch in PEER_CELLS:
        for name in (EMBEDDED, "resnet50"):
            for layer in LAYERS[name]:
                plain = _peer(package, name, layer, method, batch, False, repeats)
                measured = [r / 3 for r in _peer(package, name, layer, method, batch, True, repeats)]
                ours = _measured.get((name, layer, batch, method), ([], []))
                cells = [text for pair in zip((plain, measured), ours, strict=True) for text in _held(*pair)]
                lines.append(row(package, name, f"`{layer}`", batch, f"`{method}`", *cells))
    return "\n".join([*lines, ""])


def _held(theirs: list[float], ours: list[float]) -> tuple[str, str]:
    faster = f"{statistics.median(theirs) / statistics.median(ours):.1f}" if ours else ""
    return shown(theirs), faster


def _peer(package: str, name: str, layer: str, method: str, batch: int, metrics: bool, repeats: int) -> list[float]:
    arguments = (package, name, layer, method, str(batch), str(metrics), str(repeats))
    command = [sys.executable, "-m", "benchmarks.peer_pipeline", *arguments]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return list(map(float, json.loads(output.splitlines()[-1])))

"""What an explanation costs over the bare forward pass, here and in `grad-cam` and `torchcam`."""

import json
import statistics
import subprocess
import sys
from functools import partial

from app.cam.engine import explain
from app.cam.methods import METHODS
from app.cam.questions import Question
from app.cam.split import SplitNetwork
from app.cam.utilities import UTILITIES
from benchmarks.bare import BareForward, user_environment
from benchmarks.measure import EMBEDDED, benchmark_images, fast_split, row, seconds, shown, table

LAYERS = {
    EMBEDDED: ("pre_gap", "last_conv"),
    "resnet50": ("pre_gap", "last_conv"),
    "swin_tiny_patch4_window7_224": ("pre_gap", "last_norm"),
}
# Rounds for each batch size, as multiples of what is asked for.
ROUNDS = {1: 3.0, 8: 1.0, 32: 0.5}
# Metrics are measured for these alone where the batch is large: they take three passes a time.
LEADING = ("gradcam", "shapleycam")
GRADIENT_METHODS = tuple(name for name, method in METHODS.items() if method.needs & {"gradients", "hvp"})
GAMES = ("ablationcam", "liftcam", "shapley-sampling", "aumann-shapley")
# The package keeps every ShapleyCAM graph that it made: a larger batch would fill the machine.
PEER_CELLS = (("grad-cam", "gradcam", 8), ("grad-cam", "shapleycam", 1), ("torchcam", "gradcam", 8))

# Of each (network, layer, batch, method): over the bare forward pass, without metrics and with.
_measured: dict[tuple[str, str, int, str], tuple[list[float], list[float]]] = {}


def explanations(repeats: int) -> str:
    """Every gradient method, and those of the games that are cheap, over the bare forward pass."""
    lines = [
        "## An explanation over one bare forward pass",
        "",
        "*Bare forward*: eager, contiguous, `torch.inference_mode()`, the same network and batch, in a process of its "
        "own in which nothing is set, as a user would write it. *Tuned*: the same with an allocator that keeps its "
        "pages, which makes it up to three times faster on some networks. *With "
        "metrics*: over three bare forwards. Targets at batch 8, GradCAM and ShapleyCAM: at most 0.65 (resnet50, "
        "`pre_gap`), 0.75 (`last_conv`), 0.40 and 0.50 (embedded), 0.80 and 0.95 (swin); with metrics 0.70 (resnet50) "
        "and 0.45 (embedded).",
        "",
        *table("network", "layer", "batch", "method", "over bare forward", "with metrics", "over tuned"),
    ]
    for name, layers in LAYERS.items():
        for layer in layers:
            split = fast_split(name, layer)
            for batch, share in ROUNDS.items():
                lines += _rows(split, name, layer, batch, max(3, round(share * repeats)))
    return "\n".join([*lines, ""])


def _rows(split: SplitNetwork, name: str, layer: str, batch: int, rounds: int) -> list[str]:
    """All methods in turn, round after round, each beside the bare passes of its round."""
    methods = (*GRADIENT_METHODS, *(GAMES if batch == 1 and "swin" not in name else ()))
    images = benchmark_images(batch)
    plain: dict[str, list[float]] = {method: [] for method in methods}
    measured: dict[str, list[float]] = {method: [] for method in methods}
    tuned: dict[str, list[float]] = {method: [] for method in methods}
    with BareForward(name, batch) as bare, BareForward(name, batch, tuned=True) as tuned_bare:
        for number in range(rounds + 1):
            one, other = bare.seconds(), tuned_bare.seconds()
            for method in methods:
                questions = [Question(image, METHODS[method], UTILITIES["rest"]) for image in range(batch)]
                taken = seconds(partial(explain, split, images, questions, metrics=False))
                if batch <= 8 or method in LEADING:
                    with_metrics = seconds(partial(explain, split, images, questions))
                    measured[method] += [with_metrics / (3 * one)] * (number > 0)
                if number > 0:  # the first round is for warming up
                    plain[method].append(taken / one)
                    tuned[method].append(taken / other)
    rows = []
    for method in methods:
        _measured[name, layer, batch, method] = (plain[method], measured[method])
        cells = (shown(plain[method]), shown(measured[method]), shown(tuned[method]))
        rows.append(row(name, f"`{layer}`", batch, f"`{method}`", *cells))
    return rows


def peers(repeats: int) -> str:
    """The same work in other packages, and how many times faster it is here."""
    lines = [
        "## The same work in `grad-cam` and `torchcam`",
        "",
        "In a process of their own in which nothing is set: their time over one bare forward pass, and over three with "
        "the pipeline that their calls make for the same figures (a map of the image, three scores, a map of the "
        "explanation map); *times faster* is that over ours in the table above. Targets at the same batch: GradCAM at "
        "least 5 (resnet50) and 8 (embedded), ShapleyCAM 4 and 5; with metrics 4 and 6.",
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
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=user_environment()).stdout
    return list(map(float, json.loads(output.splitlines()[-1])))

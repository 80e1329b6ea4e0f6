"""What the benchmarks share: the networks, the images, and how time is taken."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor, nn

from app.cam.acceleration import accelerate
from app.cam.split import GraphSplit, SplitNetwork
from app.cam.splitting import split_network
from app.cam.trunks import Engine
from service_models import Network, Random, load_network, resolve

EMBEDDED = "tf_efficientnet_lite0"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@lru_cache
def benchmark_network(name: str) -> Network:
    """The embedded network with its weights, any other with random ones: the cost is the same."""
    spec = resolve(name)
    if name != EMBEDDED:
        spec = replace(spec, weights=Random(0))
    return load_network(spec, DEVICE, None)


def fast_split(name: str, layer: str) -> SplitNetwork:
    """The network split at a layer, its trunk on the engine that the service takes by default for named ones."""
    network = benchmark_network(name)
    split = split_network(network.model, network.layers.get(layer, layer), (224, 224))
    engine: Engine = "openvino" if DEVICE.type == "cpu" else "cudagraphs"
    if isinstance(split, GraphSplit) and layer in network.layers:
        accelerate(split, (engine,), benchmark_images(3), "float32")
    return split


def benchmark_images(batch: int, size: tuple[int, int] = (224, 224)) -> Tensor:
    """Normalised noise, (batch, 3, height, width)."""
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0)).to(DEVICE)


def bare_forward(model: nn.Module, images: Tensor) -> Callable[[], object]:
    """The forward pass that a user would write."""

    def forward() -> object:
        with torch.inference_mode():
            return model(images)

    return forward


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    _wait()
    started = time.perf_counter()
    work()
    _wait()
    return time.perf_counter() - started


def ratios(work: Callable[[], object], other: Callable[[], object], repeats: int) -> list[float]:
    """Time of `work` over time of `other`, measured in turn so that the machine's drift cancels."""
    work()
    other()
    return [seconds(work) / seconds(other) for _ in range(repeats)]


def shown(values: Sequence[float]) -> str:
    """Median, smallest and largest."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})" if values else ""


def table(*columns: str) -> list[str]:
    """The head of a Markdown table."""
    return [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]


def row(*cells: object) -> str:
    """A line of it, printed too."""
    line = f"| {' | '.join(map(str, cells))} |"
    print(line, flush=True)
    return line


def _wait() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()

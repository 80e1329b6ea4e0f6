"""What the benchmarks share: the networks, the images, and how time is taken."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor, nn

from service_models import Network, Random, load_network, resolve


@lru_cache
def benchmark_network(name: str) -> Network:
    """The embedded network with its weights, any other with random ones: the cost is the same."""
    spec = resolve(name)
    if name != "tf_efficientnet_lite0":
        spec = replace(spec, weights=Random(0))
    return load_network(spec, torch.device("cpu"), None)


def benchmark_images(batch: int, size: tuple[int, int] = (224, 224)) -> Tensor:
    """Normalised noise, (batch, 3, height, width)."""
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0))


def bare_forward(model: nn.Module, images: Tensor) -> Callable[[], object]:
    """The forward pass that a user would write."""

    def forward() -> object:
        with torch.inference_mode():
            return model(images)

    return forward


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def ratios(work: Callable[[], object], other: Callable[[], object], repeats: int) -> list[float]:
    """Time of `work` over time of `other`, measured in turn so that the machine's drift cancels."""
    work()
    other()
    return [seconds(work) / seconds(other) for _ in range(repeats)]

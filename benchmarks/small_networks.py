"""Small networks of every family of torchvision and timm, with random weights."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

import timm
import torch
import torchvision

from service_models import Network, NetworkSpec, Preprocessing, Random, load_network
from service_models.libraries import Library

CLASSES = 10
_SIZES_PX = (64, 128, 224, 256)


def modules() -> Iterator[tuple[Library, str, list[str]]]:
    """Library, module and names of the architectures that are defined together."""
    found: dict[str, list[str]] = {}
    for name in torchvision.models.list_models(module=torchvision.models):
        module = torchvision.models.get_model_builder(name).__module__.rpartition(".")[2]
        found.setdefault(module, []).append(name)
    for module, names in found.items():
        yield "torchvision", module, names
    for module in timm.list_modules():
        yield "timm", module, timm.list_models(module=module)


def fewest_parameters(library: Library, names: Sequence[str]) -> tuple[str, int]:
    """The architecture with the fewest parameters, and how many; the first and 0 where none can be counted."""

    def parameters(name: str) -> int:
        with torch.device("meta"):
            model = timm.create_model(name) if library == "timm" else torchvision.models.get_model(name)
        return sum(parameter.numel() for parameter in model.parameters())

    counts: dict[str, int] = {}
    for name in names:
        with suppress(Exception):  # some cannot be built without memory
            counts[name] = parameters(name)
    name = min(counts, key=counts.__getitem__, default=names[0])
    return name, counts.get(name, 0)


def load(library: Library, name: str) -> Network:
    """Loads a network with random weights, on the smallest pictures that it takes.

    Raises:
        NetworkError: it cannot be loaded.
    """
    spec = NetworkSpec(name, library, name, Random(0), classes=CLASSES)
    for size in _SIZES_PX:
        sized = replace(spec, preprocessing=Preprocessing((size, size), size))
        with suppress(Exception):  # of a size that they do not take, networks complain in many ways
            return load_network(sized, torch.device("cpu"))
    return load_network(spec, torch.device("cpu"))

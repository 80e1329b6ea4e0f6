"""`python -m app check`: everything that the start does with the networks of a configuration file, without serving."""

import argparse
import logging
import sys
from dataclasses import replace
from pathlib import Path

import torch
from pydantic import ValidationError

from app.cam.errors import CamError
from app.cam.split import GraphSplit, SplitNetwork
from app.runtime.checking import logits_of
from app.runtime.devices import choose_devices, set_precision
from app.runtime.served import ServedNetwork, serve_network
from app.runtime.worker import DeviceWorker
from app.settings import Settings
from service_models import NetworkError, NetworkSpec, find_networks
from service_models.calibration import structured_images
from service_models.config import read_config
from service_models.errors import ConfigError
from service_models.files import printable

_LOG = logging.getLogger("app")

# Labels of a network, and scores of a picture, that are shown.
_LABELS = 5
_SCORES = 20
# Relative to the largest logit: the same numbers in another order of the rows.
_TOLERANCE = 1e-5


def check(parsed: argparse.Namespace) -> int:
    """Checks networks; returns the exit status: 0 where all can be served, else 1."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        settings = Settings(config=parsed.config)
        names = [parsed.name] if parsed.name else list(read_config(parsed.config))
        if not names:
            raise ConfigError(f"{printable(parsed.config)}: has no networks")
        device = choose_devices(settings.device)[0]
    except (NetworkError, ValidationError, ValueError) as error:
        _LOG.error("%s", error)
        return 1
    set_precision(settings.precision)
    worker, status = DeviceWorker(device), 0
    for name in names:
        try:
            (spec,) = find_networks([name], parsed.config)
            served = serve_network(spec, worker, settings)
            print(_described(served, spec), flush=True)
            if parsed.image is not None:
                print(_predicted(served, parsed.image), flush=True)
        except (NetworkError, CamError) as error:
            _LOG.error("%s", error)
            status = 1
    return status


def _described(served: ServedNetwork, spec: NetworkSpec) -> str:
    network = served.network
    view, labels = network.preprocessing, network.labels
    height, width = view.input_size
    more = ", ..." if len(labels) > _LABELS else ""
    lines = [
        f"{network.name}: {spec.library}:{spec.architecture}, weights {network.weights}",
        f"  input: {_counted(view.channels, 'channel')}, {height} x {width} px; {_fit(served)}; "
        f"mean {_numbers(view.mean)}, std {_numbers(view.std)}; in 16-bit pictures {view.max_value:,} is white",
        f"  scores: {network.scores.name}; {_counted(len(labels), 'label')}"
        f"{', each for itself' if network.is_multi_label else ''}: {', '.join(map(printable, labels[:_LABELS]))}{more}",
    ]
    for name, path in network.layers.items():
        split = served.layers.named(path)
        assert split is not None
        grid = f"{split.grid.height} x {split.grid.width}"
        lines.append(f"  layer {name}: {path}, {grid} positions; {_position(split, served)}")
    return "\n".join(lines)


def _fit(served: ServedNetwork) -> str:
    view = served.network.preprocessing
    match view.fit:
        case "crop":
            return f"short side to {view.resize_size} px ({view.interpolation}), centre crop"
        case "stretch":
            return f"stretched ({view.interpolation})"
        case _:
            return f"letterboxed ({view.interpolation})"


def _position(split: SplitNetwork, served: ServedNetwork) -> str:
    """Says whether all that the logits depend on passes through a layer: whether what passes by it changes them."""
    if not isinstance(split, GraphSplit):
        return "whether every path to the logits leads through it is not known: the network cannot be traced"
    view, generator = served.network.preprocessing, torch.Generator().manual_seed(0)
    images = structured_images(2, view.input_size, generator, view.channels).to(served.network.device)
    state = split.trunk(images)
    swapped = replace(state, carry=tuple(torch.cat(tensor.chunk(2)[::-1]) for tensor in state.carry))
    logits = split.head(state)
    if (split.head(swapped) - logits).abs().max() <= _TOLERANCE * logits.abs().max():
        return "on every path to the logits"
    return (
        "WARNING: not every path to the logits leads through it (a skip connection, a parallel branch or a class token "
        "passes by); a map shows what this layer contributes"
    )


def _predicted(served: ServedNetwork, image: Path) -> str:
    network = served.network
    logits = logits_of(network, image)
    probabilities = network.scores.probabilities(logits[None])[0]
    lines = [f"  {image.name}:"]
    for index in logits.argsort(descending=True)[:_SCORES].tolist():
        label = printable(network.labels[index])
        lines.append(
            f"    {float(probabilities[index]):8.4f}  {label} (class {index}, logit {float(logits[index]):.4f})"
        )
    return "\n".join(lines)


def _counted(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)

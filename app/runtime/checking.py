"""Holds a loaded network against what the operator's own code gave for one picture."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float64
from torch import Tensor

from app.errors import ImageError
from app.imaging.decode import open_image
from app.imaging.picture import depth_warnings, pixels_of
from app.imaging.reading import DecodeSpec, read_image
from app.imaging.tensors import normalise
from service_models import Network, NetworkSpec, load_network
from service_models.errors import ConfigError
from service_models.files import printable, read_bounded
from service_models.scores import SIGMOID
from service_models.spec import Check

_LOG = logging.getLogger(__name__)

_MAX_PIXELS = 256_000_000
_MAX_BYTES = 256_000_000
# Numbers of a row that a message shows.
_SHOWN = 10


def load_checked(spec: NetworkSpec, device: torch.device, weights_dir: Path | None) -> Network:
    """Loads a network as `load_network` does, and holds it to the check of its entry.

    Raises:
        NetworkError: it cannot be loaded, or gives other numbers than the entry states.
    """
    network = load_network(spec, device, weights_dir)
    if spec.check is not None:
        hold_check(network, spec.check)
    return network


def logits_of(network: Network, image: Path) -> Float64[Tensor, " class"]:
    """What a network says of a picture in a file, on the CPU; the log has what is strange about the picture.

    Raises:
        ConfigError: the file cannot be read, or is no picture.
    """
    spec = DecodeSpec.of(network.preprocessing)
    try:
        read = read_image(open_image(read_bounded(image, _MAX_BYTES), _MAX_PIXELS), spec)
    except (OSError, ImageError) as error:
        raise ConfigError(f"{printable(image)}: {printable(error)}") from error
    for warning in depth_warnings(read.depth, network.preprocessing.max_value):
        _LOG.warning("%s: %s", printable(image.name), warning)
    pixels = torch.tensor(pixels_of(read.view, spec, is_deep=read.depth is not None))
    with torch.no_grad():
        logits: Tensor = network.model(normalise([pixels], network.preprocessing, network.device))[0]
    return logits.double().cpu()


def hold_check(network: Network, check: Check) -> None:
    """Refuses a network that gives other numbers than its entry states.

    A single logit is checked by the number of its positive label alone, or by both.

    Raises:
        ConfigError: with both rows.
    """
    where = f"{network.name}: check"
    try:
        logits = logits_of(network, check.image)
    except ConfigError as error:
        raise ConfigError(f"{where}.image: {error}") from error
    found = logits if check.kind == "logits" else network.scores.probabilities(logits[None])[0]
    is_single_logit = network.scores is SIGMOID and not network.is_multi_label
    if len(check.values) == 1 and is_single_logit:
        found = found[1:]
    stated = torch.tensor(check.values, dtype=torch.float64)
    if len(stated) != len(found):
        raise ConfigError(f"{where}.{check.kind}: {len(stated)} numbers, but the network has {len(found)}; state all")
    differences = (found - stated).abs()
    largest = float(differences.max())
    if largest <= check.tolerance:
        _LOG.info("%s: %s of %s agree, within %.2g", where, check.kind, check.image.name, largest)
        return
    order = differences.argsort(descending=True)[:_SHOWN].sort().values
    some = f", the {_SHOWN} that differ most" if len(found) > _SHOWN else ""
    raise ConfigError(
        f"{where}: the {check.kind} of {printable(check.image.name)} differ by up to {largest:.4g} from what the entry "
        f"states, and tolerance = {check.tolerance:g}{some}:\n"
        f"  label  {_row([printable(network.labels[index - len(found)], 20) for index in order.tolist()])}\n"
        f"  stated {_row([f'{value:.4f}' for value in stated[order].tolist()])}\n"
        f"  found  {_row([f'{value:.4f}' for value in found[order].tolist()])}\n"
        "  usual reasons: preprocessing (fit, resize_size, interpolation, mean, std, channels, max_value), scores, the "
        "order of labels, other weights, arguments of the architecture"
    )


def _row(cells: Sequence[str]) -> str:
    return "  ".join(f"{cell:>8}" for cell in cells)

"""Splits a network at a layer: as a graph where it can be traced, with hooks otherwise."""

import logging

import torch
from torch import Tensor, nn

from app.cam.errors import LayerError
from app.cam.split import GraphSplit, HookSplit, SplitNetwork
from app.cam.structure import agree, probe
from app.cam.tracing import Untraceable, cut_graph
from service_models.grid import Grid, grid_of

_LOG = logging.getLogger(__name__)


def split_network(model: nn.Module, layer: str, input_size: tuple[int, int]) -> SplitNetwork:
    """Splits a frozen network at one of its modules.

    Args:
        model: network in eval mode without parameters that require gradients.
        layer: path of a module whose output has a spatial grid (NCHW, NHWC or tokens).
        input_size: (height, width) of the input in px.

    Returns:
        The split, checked against the whole network on two images of noise.

    Raises:
        LayerError: no such module, it is not reached, or its output has no spatial grid.
    """
    images = _noise(model, input_size)
    grid, calls = _inspect_layer(model, layer, images)
    with torch.no_grad():
        logits = model(images)
    split: SplitNetwork
    try:
        split = GraphSplit(layer, grid, cut_graph(model, layer, images))
        _check_rows(split, images, logits)
    except Untraceable as reason:
        _LOG.info("'%s' is explained with hooks and whole forward passes (%s)", layer, reason)
        split = HookSplit(model, layer, grid, calls)
    probe(split, model, images)
    return split


def _noise(model: nn.Module, input_size: tuple[int, int]) -> Tensor:
    reference = next((t for t in model.parameters()), torch.empty(0))
    noise = torch.randn(2, 3, *input_size, generator=torch.Generator().manual_seed(0))
    return noise.to(reference)


def _inspect_layer(model: nn.Module, layer: str, images: Tensor) -> tuple[Grid, int]:
    """Runs the network once to see what the layer returns and how often."""
    if not layer or layer not in dict(model.named_modules()):
        raise LayerError(f"the network has no module '{layer}'")
    outputs: list[object] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda _m, _i, output: outputs.append(output))
    try:
        with torch.no_grad():
            model(images[:1])
    finally:
        handle.remove()
    if not outputs:
        raise LayerError(f"the module '{layer}' does not run in a forward pass")
    output = outputs[-1]
    if not isinstance(output, Tensor):
        raise LayerError(f"the module '{layer}' does not return one tensor")
    grid = grid_of(model, output, (images.shape[-2], images.shape[-1]))
    if grid is None:
        shape = " x ".join(map(str, output.shape[1:]))
        raise LayerError(f"the output of '{layer}' ({shape}) has no spatial grid")
    return grid, len(outputs)


def _check_rows(split: SplitNetwork, images: Tensor, logits: Tensor) -> None:
    """Compares trunk and head, on repeated rows, with the whole network."""
    rows = torch.tensor([1, 0, 1], device=images.device)
    try:
        with torch.no_grad():
            found = split.head(split.trunk(images).take(rows))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise Untraceable(f"its halves do not run: {error}") from error
    if not agree(found, logits[rows]):
        raise Untraceable("its halves do not give the logits of the whole")

"""The game's board: a network split at its target layer into a trunk and a head."""

import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from app.cam.curvature import TwiceDifferentiable
from app.cam.errors import LayerError
from app.cam.tracing import GraphCut, Untraceable, cut_graph
from service_models.grid import Grid, grid_of

_LOG = logging.getLogger(__name__)
_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class State:
    """What the trunk leaves for the head, for some rows.

    Attributes:
        activations: output of the target layer; its d = height * width positions are the players.
        carry: everything else that the head needs (skip connections, class tokens), the same for every
            coalition; the first dimension of each is a multiple of the number of rows, row by row.
    """

    activations: Float[Tensor, "row channel height width"]
    carry: tuple[Tensor, ...]

    def __len__(self) -> int:
        return self.activations.shape[0]

    def take(self, rows: Int[Tensor, " taken"]) -> "State":
        """Picks rows, each as often as it is named."""
        count = len(self)
        carry = tuple(t.unflatten(0, (count, -1))[rows].flatten(0, 1) for t in self.carry)
        return State(self.activations[rows], carry)

    def with_activations(self, activations: Float[Tensor, "row channel height width"]) -> "State":
        """The same rows with other activations: a coalition."""
        return State(activations, self.carry)


class SplitNetwork(ABC):
    """A network as trunk (images to activations) and head (activations to logits).

    Both are functions without hidden state. The trunk runs without autograd, once for each image; the head
    runs on any number of coalitions and may be differentiated twice.

    Attributes:
        layer: module path of the target layer.
        calls: how often that module runs in one forward pass; its last output is the target.
        grid: spatial layout of its output.
        classifier: the linear layer that follows, if the head is nothing but global average pooling and this
            layer; else None.
        pools: whether the head sees the activations only through their spatial mean.
    """

    layer: str
    calls: int
    grid: Grid
    classifier: nn.Linear | None = None
    pools: bool = False
    _silent_logits: Tensor | None = None

    def trunk(self, images: Float[Tensor, "batch 3 height width"]) -> State:
        """Runs the network up to its target layer, without autograd."""
        with torch.no_grad():
            output, *carry = self._run_trunk(images)
            activations, prefix = self._to_channels_first(output)
        return State(activations, (*prefix, *carry))

    def head(self, state: State, mode: TorchFunctionMode | None = None) -> Float[Tensor, "row class"]:
        """Runs the rest of the network, with autograd where it is enabled.

        Args:
            state: the rows.
            mode: entered around the head in place of `TwiceDifferentiable`.
        """
        carry = state.carry
        prefix, carry = (carry[:1], carry[1:]) if self.grid.prefix_tokens else ((), carry)
        # The head may start with an operation in place: it gets tensors of its own.
        output = self._from_channels_first(state.activations, prefix).clone()
        with mode or TwiceDifferentiable():
            return self._run_head(output, *(tensor.clone() for tensor in carry))

    def silent(self, state: State) -> Float[Tensor, "row class"]:
        """The logits of the empty coalition: the head on zero activations, with the same carry."""
        if state.carry:
            return self.head(state.with_activations(torch.zeros_like(state.activations)))
        if self._silent_logits is None:  # nothing of the image is left: the same for every row
            activations = torch.zeros_like(state.activations[:1])
            self._silent_logits = self.head(state.with_activations(activations)).detach()
        return self._silent_logits.expand(len(state), -1)

    @abstractmethod
    def _run_trunk(self, images: Tensor) -> tuple[Tensor, ...]: ...

    @abstractmethod
    def _run_head(self, output: Tensor, *carry: Tensor) -> Tensor: ...

    def _to_channels_first(self, output: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        grid = self.grid
        if grid.layout == "nchw":
            return output, ()
        if grid.layout == "nhwc":
            return output.permute(0, 3, 1, 2), ()
        prefix, tokens = output[:, : grid.prefix_tokens], output[:, grid.prefix_tokens :]
        activations = tokens.unflatten(1, (grid.height, grid.width)).permute(0, 3, 1, 2)
        return activations, (prefix,) if grid.prefix_tokens else ()

    def _from_channels_first(self, activations: Tensor, prefix: tuple[Tensor, ...]) -> Tensor:
        if self.grid.layout == "nchw":
            return activations
        output = activations.permute(0, 2, 3, 1)
        if self.grid.layout == "nhwc":
            return output
        return torch.cat((*prefix, output.flatten(1, 2)), dim=1)


class _GraphSplit(SplitNetwork):
    """Split by `torch.fx`: each half is a graph of its own."""

    def __init__(self, layer: str, grid: Grid, cut: GraphCut) -> None:
        self.layer, self.grid, self.calls = layer, grid, cut.calls
        self._cut = cut

    def _run_trunk(self, images: Tensor) -> tuple[Tensor, ...]:
        return cast(tuple[Tensor, ...], self._cut.trunk(images))

    def _run_head(self, output: Tensor, *carry: Tensor) -> Tensor:
        return cast(Tensor, self._cut.head(output, *carry))


class _Reached(Exception):
    """Ends a forward pass at the target layer."""


class _HookSplit(SplitNetwork):
    """For networks that cannot be traced: the head is a whole forward pass with the layer's output replaced."""

    def __init__(self, model: nn.Module, layer: str, grid: Grid, calls: int) -> None:
        self.layer, self.grid, self.calls = layer, grid, calls
        self._model, self._module = model, model.get_submodule(layer)

    def _run_trunk(self, images: Tensor) -> tuple[Tensor, ...]:
        found: list[Tensor] = []

        def stop_at_last_call(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            found.append(output)
            if len(found) == self.calls:
                raise _Reached

        handle = self._module.register_forward_hook(stop_at_last_call)
        try:
            self._model(images)
        except _Reached:
            pass
        finally:
            handle.remove()
        return found[-1], images

    def _run_head(self, output: Tensor, *carry: Tensor) -> Tensor:
        seen = 0

        def replace_last_call(_module: nn.Module, _inputs: object, _output: Tensor) -> Tensor | None:
            nonlocal seen
            seen += 1
            return output if seen == self.calls else None

        handle = self._module.register_forward_hook(replace_last_call)
        try:
            return cast(Tensor, self._model(carry[0]))
        finally:
            handle.remove()


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
        split = _GraphSplit(layer, grid, cut_graph(model, layer, images))
        _check_rows(split, images, logits)
    except Untraceable as reason:
        _LOG.info("'%s' is explained with hooks and whole forward passes (%s)", layer, reason)
        split = _HookSplit(model, layer, grid, calls)
    _probe_pooling(split, model, images)
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
    if not _agree(found, logits[rows]):
        raise Untraceable("its halves do not give the logits of the whole")


def _probe_pooling(split: SplitNetwork, model: nn.Module, images: Tensor) -> None:
    """Finds out by experiment what the head sees of the activations.

    A head that gives the same logits for activations and for their spatial mean pools; if, besides, these
    logits are `classifier(mean)` at every scale and sign tried, it is that linear layer and nothing else.
    """
    state = split.trunk(images).take(torch.tensor([0, 1, 0, 1], device=images.device))
    noise = torch.randn(state.activations.shape, generator=torch.Generator().manual_seed(1)) + 0.5
    scales = torch.tensor([1.0, -1.0, 100.0, -100.0])[:, None, None, None]
    activations = (noise * scales).to(images)
    with torch.no_grad():
        logits = split.head(state.with_activations(activations))
        mean = activations.mean(dim=(2, 3), keepdim=True)
        split.pools = _agree(split.head(state.with_activations(mean.expand_as(activations))), logits)
        if not split.pools:
            return
        shape = (logits.shape[1], split.grid.channels)
        for module in model.modules():
            is_candidate = isinstance(module, nn.Linear) and tuple(module.weight.shape) == shape
            if is_candidate and _agree(module(mean.flatten(1)), logits):
                split.classifier = cast(nn.Linear, module)


def _agree(found: Tensor, expected: Tensor) -> bool:
    """Whether every row agrees, relative to its own largest logit."""
    scale = expected.abs().amax(dim=1).clamp_min(1e-12)
    return found.shape == expected.shape and bool(((found - expected).abs().amax(dim=1) <= _TOLERANCE * scale).all())

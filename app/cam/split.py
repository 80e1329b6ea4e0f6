"""The game's board: a network split at its target layer into a trunk and a head."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from app.cam.curvature import TwiceDifferentiable
from app.cam.tracing import GraphCut
from app.cam.trunks import Trunk
from service_models.grid import Grid


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

    def part(self, start: int, stop: int) -> "State":
        """Consecutive rows, without a copy."""
        count = len(self)
        carry = tuple(t.unflatten(0, (count, -1))[start:stop].flatten(0, 1) for t in self.carry)
        return State(self.activations[start:stop], carry)

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
        pools: whether the head sees the activations only through their spatial mean.
        classifier: the linear layer that follows, if the head is nothing but global average pooling and this
            layer; else None.
        additive: whether the logits are a sum over players, y(S) = y(0) + sum over j in S of a term of j alone: so it
            is where nothing before global average pooling mixes positions, and one linear layer follows.
        channelwise: whether the input of the last linear layer has an entry for each channel that depends on this
            channel alone.
        whole_head: whether running the head costs a whole forward pass.
    """

    layer: str
    calls: int
    grid: Grid
    pools: bool = False
    classifier: nn.Linear | None = None
    additive: bool = False
    channelwise: bool = False
    whole_head: bool = False
    _silent_logits: Tensor | None = None

    def trunk(self, images: Float[Tensor, "batch 3 height width"]) -> State:
        """Runs the network up to its target layer, without autograd."""
        with torch.no_grad():
            return self.state_of(*self._run_trunk(images))

    def head(self, state: State, mode: TorchFunctionMode | None = None) -> Float[Tensor, "row class"]:
        """Runs the rest of the network, with autograd where it is enabled.

        Args:
            state: the rows.
            mode: entered around the head in place of `TwiceDifferentiable`.
        """
        left = self.left_by_trunk(state)
        with mode or TwiceDifferentiable():
            return self._run_head(*left)

    def state_of(self, output: Tensor, *carry: Tensor) -> State:
        """Puts what the layer and the trunk returned in the common layout."""
        activations, prefix = self._to_channels_first(output)
        return State(activations, (*prefix, *carry))

    def left_by_trunk(self, state: State) -> tuple[Tensor, ...]:
        """The opposite of `state_of`; copies, for what comes next may start with an operation in place."""
        carry = state.carry
        prefix, carry = (carry[:1], carry[1:]) if self.grid.prefix_tokens else ((), carry)
        output = self._from_channels_first(state.activations, prefix).clone()
        return output, *(tensor.clone() for tensor in carry)

    def logits(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch class"]:
        """Runs the whole network, without autograd."""
        with torch.no_grad():
            return self.head(self.trunk(images))

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


class GraphSplit(SplitNetwork):
    """Split by `torch.fx`: each half is a graph of its own.

    Attributes:
        graph: the trunk.
        run_trunk: what runs it: the graph itself, or what a compiler made of it.
    """

    def __init__(self, layer: str, grid: Grid, cut: GraphCut) -> None:
        self.layer, self.grid, self.calls = layer, grid, cut.calls
        self.graph = cut.trunk
        self.run_trunk: Trunk = cut.trunk
        self._head = cut.head

    def _run_trunk(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.run_trunk(images)

    def _run_head(self, output: Tensor, *carry: Tensor) -> Tensor:
        return cast(Tensor, self._head(output, *carry))


class _Reached(Exception):
    """Ends a forward pass at the target layer."""


class HookSplit(SplitNetwork):
    """For networks that cannot be traced: the head is a whole forward pass with the layer's output replaced."""

    whole_head = True

    def __init__(self, model: nn.Module, layer: str, grid: Grid, calls: int) -> None:
        self.layer, self.grid, self.calls = layer, grid, calls
        self._model, self._module = model, model.get_submodule(layer)

    def logits(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch class"]:
        """Runs the network as it is: trunk and head would be two passes."""
        with torch.no_grad():
            return cast(Tensor, self._model(images))

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

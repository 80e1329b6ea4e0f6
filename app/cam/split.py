"""A network split at its target layer into a trunk and a head."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from copy import copy
from typing import Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from app.cam.curvature import TwiceDifferentiable
from app.cam.derivatives import Derivatives
from app.cam.heads import HeadStructure
from app.cam.last_layer import LastLayer
from app.cam.state import SplitState
from app.cam.tracing import GraphCut
from app.cam.trunks import Trunk
from app.cam.utilities import UtilityFunction
from service_models.grid import Grid
from service_models.layer_paths import RELU, ReluWatch, module_of

# Those of a residual block and what ends a network.
_SHALLOW_MODULES = 16


@runtime_checkable
class Layer(Protocol):
    """What estimates must know of a layer; see `SplitNetwork`."""

    @property
    def grid(self) -> Grid:
        """See `SplitNetwork`."""
        ...

    @property
    def structure(self) -> HeadStructure:
        """See `SplitNetwork`."""
        ...


class SplitNetwork(ABC):
    """A network as trunk (images to activations) and head (activations to logits).

    Both are functions without hidden state. The trunk runs without autograd, once for each image; the head
    runs on any number of coalitions and may be differentiated twice.

    Attributes:
        layer: path of the target layer: that of a module, or `MODULE+relu`.
        calls: how often that module runs in one forward pass; its last output, or the ReLU of it, is the target.
        grid: spatial layout of its output.
        structure: what the head is known to be.
        whole_head: whether running the head costs a whole forward pass.
        deep_head: whether the head is so much of the network that its derivatives are taken row by row on a processor.
    """

    layer: str
    calls: int
    grid: Grid
    structure: HeadStructure = HeadStructure()
    whole_head: bool = False
    deep_head: bool = False
    _empty_logits: Tensor | None = None

    def with_structure(self, structure: HeadStructure) -> "SplitNetwork":
        """The same split with a head of which something else is known."""
        split = copy(self)
        split.structure = structure
        return split

    def trunk(self, images: Float[Tensor, "batch colour height width"]) -> SplitState:
        """Runs the network up to its target layer, without autograd."""
        with torch.no_grad():
            return self.state_of(*self._run_trunk(images))

    def head(self, state: SplitState, mode: TorchFunctionMode | None = None) -> Float[Tensor, "row class"]:
        """Runs the rest of the network, with autograd where it is enabled.

        Args:
            state: the rows.
            mode: entered around the head in place of `TwiceDifferentiable`.
        """
        inputs = self.head_inputs(state)
        with mode or TwiceDifferentiable():
            return self._run_head(*inputs)

    def state_of(self, output: Tensor, *carry: Tensor) -> SplitState:
        """Puts what the layer and the trunk returned in the common layout."""
        activations, prefix = self._to_channels_first(output)
        return SplitState(activations, (*prefix, *carry))

    def head_inputs(self, state: SplitState) -> tuple[Tensor, ...]:
        """The opposite of `state_of`; copies, since the head may start with an operation in place."""
        carry = state.carry
        prefix, carry = (carry[:1], carry[1:]) if self.grid.prefix_tokens else ((), carry)
        output = self._from_channels_first(state.activations, prefix).clone()
        return output, *(tensor.clone() for tensor in carry)

    def logits(self, images: Float[Tensor, "batch colour height width"]) -> Float[Tensor, "batch class"]:
        """Runs the whole network, without autograd."""
        with torch.no_grad():
            return self.head(self.trunk(images))

    def empty_coalition_logits(self, state: SplitState) -> Float[Tensor, "row class"]:
        """The logits of the empty coalition: the head on zero activations, with the same carry."""
        if state.carry:
            return self.head(state.with_activations(torch.zeros_like(state.activations)))
        if self._empty_logits is None:  # nothing of the image is left: the same for every row
            activations = torch.zeros_like(state.activations[:1])
            self._empty_logits = self.head(state.with_activations(activations)).detach()
        return self._empty_logits.expand(len(state), -1)

    def differentiate(self, state: SplitState, utility: UtilityFunction, *, second_order: bool) -> Derivatives:
        """U and its derivatives; see `app.cam.derivatives.differentiate`."""
        return self.structure.differentiate(self, state, utility, second_order=second_order)

    def lift_contributions(self, state: SplitState, utility: UtilityFunction) -> Float[Tensor, "row channel"]:
        """DeepLIFT contributions of the channels; see `app.cam.lift.contributions`."""
        return self.structure.lift_contributions(self, state, utility)

    def last_layer(self, state: SplitState) -> LastLayer | None:
        """The last linear layer on some rows; None where the logits do not come from one."""
        return self.structure.last_layer(self, state)

    def rows_differentiated_at_once(self, activations: Float[Tensor, "row channel height width"]) -> int:
        """How many rows of such activations are differentiated together."""
        return self.structure.rows_differentiated_at_once(activations, deep=self.deep_head)

    def passes_of_head_rows(self, rows: int) -> int:
        """How many whole forward passes so many rows of the head are."""
        return rows if self.whole_head and not self.structure.is_closed_form else 0

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
        self.deep_head = sum(node.op == "call_module" for node in cut.head.graph.nodes) > _SHALLOW_MODULES

    def _run_trunk(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.run_trunk(images)

    def _run_head(self, output: Tensor, *carry: Tensor) -> Tensor:
        return cast(Tensor, self._head(output, *carry))


class _LayerReached(Exception):
    """Ends a forward pass at the target layer."""


class HookSplit(SplitNetwork):
    """For networks that cannot be traced: the head is a whole forward pass with the layer's output replaced."""

    whole_head = True
    deep_head = True

    def __init__(self, model: nn.Module, layer: str, grid: Grid, calls: int) -> None:
        self.layer, self.grid, self.calls = layer, grid, calls
        self._model, self._module = model, model.get_submodule(module_of(layer))

    def logits(self, images: Float[Tensor, "batch colour height width"]) -> Float[Tensor, "batch class"]:
        """Runs the network as it is: trunk and head would be two passes."""
        with torch.no_grad():
            return cast(Tensor, self._model(images))

    def _run_trunk(self, images: Tensor) -> tuple[Tensor, ...]:
        found: list[Tensor] = []

        def stop(output: Tensor) -> Tensor:
            found.append(output)
            raise _LayerReached

        with suppress(_LayerReached):
            self._run(images, stop)
        return found[-1], images

    def _run_head(self, output: Tensor, *carry: Tensor) -> Tensor:
        return self._run(carry[0], lambda _output: output)

    def _run(self, images: Tensor, exchange: Callable[[Tensor], Tensor]) -> Tensor:
        """Runs the whole network with something else in the place of what the target layer made."""
        calls, last = 0, None

        def after_module(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor | None:
            nonlocal calls, last
            calls += 1
            if calls != self.calls:
                return None
            last = output
            return None if self.layer.endswith(RELU) else exchange(output)

        def around_relu(entering: Tensor, apply: Callable[[], Tensor]) -> Tensor:
            nonlocal last
            if entering is not last:
                return apply()
            last = None
            return exchange(apply())

        handle = self._module.register_forward_hook(after_module)
        watch: AbstractContextManager[object] = ReluWatch(around_relu) if self.layer.endswith(RELU) else nullcontext()
        try:
            with watch:
                return cast(Tensor, self._model(images))
        finally:
            handle.remove()

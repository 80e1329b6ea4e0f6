"""One pass of the images for several layers of a network."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn

from app.cam.split import GraphSplit, SplitNetwork
from app.cam.state import SplitState
from app.cam.structure import agree
from app.cam.tracing import Untraceable, graph_between


class SharedTrunk:
    """Runs the trunk to the earliest layer, and from there on only what lies between it and the later ones.

    A layer that cannot be reached from an earlier one has its own trunk run.
    """

    def __init__(
        self, model: nn.Module, splits: Sequence[SplitNetwork], images: Float[Tensor, "batch colour height width"]
    ) -> None:
        """Finds what lies between the layers.

        Args:
            model: the network that was split.
            splits: at the layers, in any order.
            images: two or more, to check it with.
        """
        self._splits = tuple(splits)
        self._bridges: dict[int, tuple[int, fx.GraphModule]] = {}
        graphs = [number for number, split in enumerate(self._splits) if isinstance(split, GraphSplit)]
        self._order = sorted(graphs, key=self._depth)
        for place, later in enumerate(self._order):
            for earlier in reversed(self._order[:place]):
                if (bridge := self._bridge(model, earlier, later, images)) is not None:
                    self._bridges[later] = (earlier, bridge)
                    break
        self._order += [number for number in range(len(self._splits)) if number not in graphs]

    @property
    def passes(self) -> int:
        """How many trunks are run for each image."""
        return len(self._splits) - len(self._bridges)

    def states(self, images: Float[Tensor, "batch colour height width"]) -> list[SplitState]:
        """What the trunk of each split makes of the images, in the order of the splits."""
        found: dict[int, SplitState] = {}
        for number in self._order:
            if number in self._bridges:
                earlier, bridge = self._bridges[number]
                found[number] = self._cross(bridge, earlier, number, found[earlier])
            else:
                found[number] = self._splits[number].trunk(images)
        return [found[number] for number in range(len(self._splits))]

    def _depth(self, number: int) -> int:
        split = self._splits[number]
        assert isinstance(split, GraphSplit)
        return len(split.graph.graph.nodes)

    def _bridge(self, model: nn.Module, earlier: int, later: int, images: Tensor) -> fx.GraphModule | None:
        first, second = self._splits[earlier], self._splits[later]
        try:
            bridge = graph_between(model, first.layer, second.layer, images)
            with torch.no_grad():
                found = second.head(self._cross(bridge, earlier, later, first.trunk(images)))
                expected = second.logits(images)
        except (Untraceable, RuntimeError, ValueError, TypeError, IndexError):
            return None
        return bridge if agree(found, expected) else None

    def _cross(self, bridge: fx.GraphModule, earlier: int, later: int, state: SplitState) -> SplitState:
        with torch.no_grad():
            return self._splits[later].state_of(*bridge(*self._splits[earlier].head_inputs(state)))

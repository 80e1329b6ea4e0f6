"""What passes from the trunk of a split network to its head."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True, slots=True)
class SplitState:
    """A network at its split, for some rows: all that the head needs.

    Attributes:
        activations: output of the target layer; its d = height * width positions are the players.
        carry: everything else that the head needs (skip connections, class tokens), the same for every
            coalition; the first dimension of each is a multiple of the number of rows, row by row.
    """

    activations: Float[Tensor, "row channel height width"]
    carry: tuple[Tensor, ...]

    def __len__(self) -> int:
        return self.activations.shape[0]

    def take(self, rows: Int[Tensor, " taken"] | slice) -> "SplitState":
        """Picks rows, each as often as it is named; those of a slice without a copy."""
        count = len(self)
        carry = tuple(t.unflatten(0, (count, -1))[rows].flatten(0, 1) for t in self.carry)
        return SplitState(self.activations[rows], carry)

    def with_activations(self, activations: Float[Tensor, "row channel height width"]) -> "SplitState":
        """The same rows with other activations: a coalition."""
        return SplitState(activations, self.carry)


@runtime_checkable
class RunnableHead(Protocol):
    """A head that can be run; see `SplitNetwork`."""

    layer: str

    def head(self, state: SplitState, mode: TorchFunctionMode | None = None) -> Float[Tensor, "row class"]:
        """See `SplitNetwork`."""
        ...

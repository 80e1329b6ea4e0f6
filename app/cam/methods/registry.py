"""What a method is, and the list of all."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from app.cam.game import Game
from app.cam.split import Layer
from app.cam.work import SamplingOptions, WorkEstimate

Maps = Float[Tensor, "row channel height width"]
ChannelWeights = Float[Tensor, "row channel"]
Attribution = Float[Tensor, "row height width"]

Need = Literal["gradients", "hvp", "class_weights", "random_weights", "game"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a method may look at, for each row.

    Attributes:
        activations: A, the output of the target layer.
        gradients: G = dU/dA, for methods that need it.
        hvp: H A, for methods that need it.
        class_weights: row w^c of the linear layer that follows global average pooling, for `cam`.
        random_weights: uniform in [-1, 1], for `randomcam`.
        game: the utility of whatever a method does to the image or its activations.
    """

    activations: Maps
    gradients: Maps | None = None
    hvp: Maps | None = None
    class_weights: ChannelWeights | None = None
    random_weights: ChannelWeights | None = None
    game: Game | None = None

    @property
    def required_gradients(self) -> Maps:
        """G, where the method declared that it needs it."""
        assert self.gradients is not None
        return self.gradients

    @property
    def shapley_weights(self) -> Maps:
        """W = G - 1/2 H A (Alg. 1)."""
        assert self.hvp is not None
        return self.required_gradients - 0.5 * self.hvp

    @property
    def required_game(self) -> Game:
        """The game, where the method declared that it needs it."""
        assert self.game is not None
        return self.game


@dataclass(frozen=True, slots=True)
class Estimate:
    """An attribution that was sampled.

    Attributes:
        attribution: the estimate.
        standard_error: of each entry; NaN where one pair of permutations tells nothing of it.
    """

    attribution: Attribution
    standard_error: Attribution


@dataclass(frozen=True, slots=True)
class Method:
    """An attribution method.

    Attributes:
        name: its name on the wire.
        description: one line for people.
        source: paper and equation.
        attribute: maps evidence to the signed attribution, before the outer ReLU.
        needs: what of the evidence it reads besides the activations.
        efficient: where the attribution is in units of U, so that its sum estimates U(A) - U(0): "always",
            only where the head "pools" globally, or "never".
        parameters: request fields that it takes besides the common ones.
        work: what it does at a layer with some options besides derivatives, for estimates.
    """

    name: str
    description: str
    source: str
    attribute: Callable[[Evidence], Attribution | Estimate]
    needs: frozenset[Need]
    efficient: Literal["always", "pools", "never"]
    parameters: tuple[str, ...]
    work: Callable[[Layer, SamplingOptions], WorkEstimate]

    def is_efficient(self, *, pools: bool) -> bool:
        """Whether the attribution is in units of U at a layer whose head pools globally or does not."""
        return self.efficient == "always" or (self.efficient == "pools" and pools)

    def __reduce__(self) -> tuple[Callable[[str], "Method"], tuple[str]]:
        """Travels between processes by its name."""
        return _named, (self.name,)


METHODS: dict[str, Method] = {}


def _named(name: str) -> Method:
    return METHODS[name]


_Function = Callable[[Evidence], Attribution | Estimate]


def _no_work(_layer: Layer, _effort: SamplingOptions) -> WorkEstimate:
    """Derivatives are shared by all methods that need them, and are counted apart."""
    return WorkEstimate()


def method(
    name: str,
    description: str,
    source: str,
    *,
    needs: tuple[Need, ...] = ("gradients",),
    efficient: Literal["always", "pools", "never"] = "never",
    parameters: tuple[str, ...] = (),
    work: Callable[[Layer, SamplingOptions], WorkEstimate] = _no_work,
) -> Callable[[_Function], _Function]:
    """Registers the function below as a method."""

    def register(attribute: _Function) -> _Function:
        METHODS[name] = Method(name, description, source, attribute, frozenset(needs), efficient, parameters, work)
        return attribute

    return register

"""What the head is made of, found out by experiment: it decides which closed forms hold."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from app.cam.split import SplitNetwork, State

_TOLERANCE = 1e-4
# Activations are tried at these scales, so that an activation function has no regime to hide in.
_SCALES = (1.0, -1.0, 100.0, -100.0)


class _LastLinear(TorchFunctionMode):
    """Notes what the last linear layer is given and what it makes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: tuple[Tensor, Tensor, Tensor] | None = None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever `func` returns
        output = func(*args, **(kwargs or {}))
        if func is functional.linear:
            self.found = (args[0], args[1], output)
        return output


class LastLayer(NamedTuple):
    """The linear layer that makes the logits, at work.

    Attributes:
        features: its input.
        weights: V.
        logits: what it makes of them.
    """

    features: Float[Tensor, "row feature"]
    weights: Float[Tensor, "class feature"]
    logits: Float[Tensor, "row class"]


def last_layer(split: SplitNetwork, state: State) -> LastLayer | None:
    """Runs the head and looks at its last layer; None where that is not linear."""
    if split.classifier is not None:
        means = state.activations.mean(dim=(2, 3))
        with torch.no_grad():
            return LastLayer(means, split.classifier.weight, split.classifier(means))
    mode = _LastLinear()
    with torch.no_grad():
        logits = split.head(state, mode)
    if mode.found is None:
        return None
    features, weights, output = mode.found
    is_last = features.dim() == 2 and output.shape == logits.shape and torch.equal(output, logits)
    return LastLayer(features, weights, logits) if is_last else None


def probe(split: SplitNetwork, model: nn.Module, images: Float[Tensor, "two 3 height width"]) -> None:
    """Experiments with the head on noise at several scales, and sets what it finds.

    Args:
        split: of which `trunk` and `head` work.
        model: the whole network, where the linear layer is looked for.
        images: two images of noise.
    """
    state = split.trunk(images).take(torch.tensor([0, 1, 0, 1], device=images.device))
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(state.activations.shape, generator=generator) + 0.5
    activations = (noise * torch.tensor(_SCALES)[:, None, None, None]).to(images)
    state = state.with_activations(activations)
    with torch.no_grad():
        logits = split.head(state)
        nothing = split.head(state.with_activations(torch.zeros_like(activations)))
        players = _half(activations[:, :1], generator)
        part, rest = (split.head(state.with_activations(activations * mask)) for mask in (players, 1 - players))
        split.additive = agree(part + rest - nothing, logits)
        mean = activations.mean(dim=(2, 3), keepdim=True)
        split.pools = agree(split.head(state.with_activations(mean.expand_as(activations))), logits)
        split.classifier = _find_classifier(model, mean.flatten(1), logits) if split.pools else None
    split.channelwise = _is_channelwise(split, state, generator)


def _half(activations: Tensor, generator: torch.Generator) -> Tensor:
    """A random half of the entries, as 0 and 1."""
    return torch.randint(2, activations.shape, generator=generator).to(activations)


def _find_classifier(model: nn.Module, means: Tensor, logits: Tensor) -> nn.Linear | None:
    """The linear layer that makes these logits of the spatial means at every scale and sign tried."""
    for module in model.modules():
        is_candidate = isinstance(module, nn.Linear) and module.weight.shape == (logits.shape[1], means.shape[1])
        if is_candidate and agree(module(means), logits):
            return cast(nn.Linear, module)
    return None


def _is_channelwise(split: SplitNetwork, state: State, generator: torch.Generator) -> bool:
    channels = _half(state.activations[:, :, :1, :1], generator)
    found = [
        last_layer(split, state.with_activations(state.activations * mask))
        for mask in (channels, torch.ones_like(channels), torch.zeros_like(channels))
    ]
    if found[0] is None or found[1] is None or found[2] is None:
        return False
    some, everything, nothing = (layer.features for layer in (found[0], found[1], found[2]))
    if some.shape[1] != channels.shape[1]:
        return False
    return agree(some, torch.where(channels[:, :, 0, 0] > 0, everything, nothing))


def agree(found: Tensor, expected: Tensor) -> bool:
    """Whether every row agrees, relative to its own largest entry."""
    scale = expected.abs().amax(dim=1).clamp_min(1e-12)
    return found.shape == expected.shape and bool(((found - expected).abs().amax(dim=1) <= _TOLERANCE * scale).all())

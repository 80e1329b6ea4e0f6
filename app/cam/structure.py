"""Finds out by experiment what structure a head has: this decides which closed forms hold."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from app.cam.chunks import Checkpoint, no_checkpoint
from app.cam.derivatives import missing_derivatives
from app.cam.heads import HeadStructure, PooledLinearHead
from app.cam.last_layer import watch_last_layer
from app.cam.split import SplitNetwork
from app.cam.state import SplitState

_TOLERANCE = 1e-4
# Activations are tried at these scales, so that an activation function has no regime to hide in.
_SCALES = (1.0, -1.0, 100.0, -100.0)


def probe(
    split: SplitNetwork,
    model: nn.Module,
    images: Float[Tensor, "two colour height width"],
    checkpoint: Checkpoint = no_checkpoint,
) -> HeadStructure:
    """Experiments with the head on noise at several scales.

    Each experiment is made at one scale first: most heads fail there, and the other scales are not needed.

    Args:
        split: of which `trunk` and `head` work.
        model: the whole network, where the linear layer is looked for.
        images: two images of noise.
        checkpoint: called between the steps.

    Returns:
        What was found; the split stays as it is.
    """
    checkpoint()
    state = split.trunk(images).take(torch.tensor([0, 1, 0, 1], device=images.device))
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(state.activations.shape, generator=generator) + 0.5
    activations = (noise * torch.tensor(_SCALES)[:, None, None, None]).to(images)
    state = state.with_activations(activations)
    players, channels = _half(activations[:, :1], generator), _half(activations[:, :, :1, :1], generator)
    mean = activations.mean(dim=(2, 3), keepdim=True)

    def logits_of(some: slice, masked: Tensor) -> Tensor:
        checkpoint()
        with torch.no_grad():
            return split.head(state.take(some).with_activations(masked[some]))

    def adds_up(some: slice) -> bool:
        parts = [logits_of(some, activations * mask) for mask in (players, 1 - players)]
        nothing = logits_of(some, torch.zeros_like(activations))
        return agree(parts[0] + parts[1] - nothing, logits_of(some, activations))

    def pools(some: slice) -> bool:
        return agree(logits_of(some, mean.expand_as(activations)), logits_of(some, activations))

    def is_channelwise(some: slice) -> bool:
        return _is_channelwise(split, state.take(some), channels[some], checkpoint)

    pools_globally = _holds(pools)
    if pools_globally:
        # Its inputs carry no history, and parameters are frozen.
        classifier = _find_classifier(model, mean.flatten(1), logits_of(slice(0, len(_SCALES)), activations))
        if classifier is not None:
            return PooledLinearHead(classifier=classifier)
    additive, channelwise = _holds(adds_up), _holds(is_channelwise)
    checkpoint()
    no_first, no_second = missing_derivatives(split, state.take(slice(0, 1)))
    return HeadStructure(
        pools=pools_globally,
        additive=additive,
        channelwise=channelwise,
        no_first_derivative=no_first,
        no_second_derivative=no_second,
    )


def _holds(experiment: Callable[[slice], bool]) -> bool:
    """Whether an experiment succeeds at the first scale, and at all of them."""
    return experiment(slice(0, 1)) and experiment(slice(0, len(_SCALES)))


def _half(activations: Tensor, generator: torch.Generator) -> Tensor:
    """A random half of the entries, as 0 and 1."""
    return torch.randint(2, activations.shape, generator=generator).to(activations)


def _find_classifier(model: nn.Module, means: Tensor, logits: Tensor) -> nn.Linear | None:
    """The linear layer that makes these logits of the spatial means at every scale and sign tried."""
    for module in model.modules():
        if not isinstance(module, nn.Linear) or module.weight.shape != (logits.shape[1], means.shape[1]):
            continue
        if agree(module(means), logits):
            return module
    return None


def _is_channelwise(split: SplitNetwork, state: SplitState, channels: Tensor, checkpoint: Checkpoint) -> bool:
    found = []
    for mask in (channels, torch.ones_like(channels), torch.zeros_like(channels)):
        checkpoint()
        layer = watch_last_layer(split, state.with_activations(state.activations * mask))
        if layer is None or layer.features.shape[1] != channels.shape[1]:
            return False
        found.append(layer.features)
    some, everything, nothing = found
    return agree(some, torch.where(channels[:, :, 0, 0] > 0, everything, nothing))


def agree(found: Tensor, expected: Tensor) -> bool:
    """Whether every row agrees, relative to its own largest entry."""
    scale = expected.abs().amax(dim=1).clamp_min(1e-12)
    return found.shape == expected.shape and bool(((found - expected).abs().amax(dim=1) <= _TOLERANCE * scale).all())

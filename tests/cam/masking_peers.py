"""Masking methods and smoothing as slow loops, and as the packages `grad-cam` and `torchcam` have them."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import pytorch_grad_cam
import torch
import torchcam.methods
from pytorch_grad_cam.utils.model_targets import (
    ClassifierOutputReST,
    ClassifierOutputSoftmaxTarget,
    ClassifierOutputTarget,
)
from torch import Tensor, nn
from torch.nn.functional import interpolate

from app.cam.engine import explain
from app.cam.questions import Explanation, Question
from app.cam.split import SplitNetwork
from app.cam.utilities import Utility
from tests.cam.peers import as_the_peer_needs_it

Mask = Callable[[Tensor, tuple[int, int]], Tensor]
Target = Callable[[Tensor], Tensor]
Peer = type[pytorch_grad_cam.GradCAM]

# What the packages call a target; neither has the log-softmax.
TARGETS: dict[str, Callable[[int], Target]] = {
    "pre-softmax": ClassifierOutputTarget,
    "post-softmax": ClassifierOutputSoftmaxTarget,
    "rest": ClassifierOutputReST,
}
_ROWS = 64


def gradcam_attribution(kind: Peer, model: nn.Module, path: str, image: Tensor, target: Target) -> Tensor:
    """The `grad-cam` package's map of one image before its ReLU and scaling, (grid_height, grid_width)."""
    found: list[Tensor] = []

    class CapturingImage(kind):  # type: ignore[misc, valid-type]
        def get_cam_image(self, *args, **kwargs):
            attribution = super().get_cam_image(*args, **kwargs)
            found.append(torch.from_numpy(attribution[0]))
            return attribution

    with as_the_peer_needs_it(model, path), CapturingImage(model, [model.get_submodule(path)]) as cam:
        cam(image[None], [target])
    return found[0]


class Laid(NamedTuple):
    """A heatmap, (height, width), and those of the layers that it is the mean of, before they are normalised again."""

    heatmap: Tensor
    of_layers: list[Tensor]


def gradcam_heatmap(
    kind: Peer, model: nn.Module, paths: list[str], image: Tensor, target: Target, *, aug_smooth: bool = False
) -> Laid:
    """The `grad-cam` package's heatmap of one image."""
    found: list[Tensor] = []

    class CapturingLayers(kind):  # type: ignore[misc, valid-type]
        def compute_cam_per_layer(self, *args):
            maps = super().compute_cam_per_layer(*args)
            found[:] = [torch.from_numpy(one[0, 0]) for one in maps]
            return maps

    with (
        as_the_peer_needs_it(model, *paths),
        CapturingLayers(model, [model.get_submodule(path) for path in paths]) as cam,
    ):
        heatmap = torch.from_numpy(cam(image[None], [target], aug_smooth=aug_smooth)[0])
    return Laid(heatmap, found)


def torchcam_scorecam(model: nn.Module, path: str, image: Tensor, target: Target) -> Tensor:
    """The `torchcam` package's ScoreCAM of one image after its ReLU, (grid_height, grid_width)."""
    with as_the_peer_needs_it(model, path), torchcam.methods.ScoreCAM(model, path) as extractor, torch.no_grad():
        scores = model(image[None])
        (found,) = extractor(scores=scores, normalized=False, targets=target)
    return found[0]


def upsampled_then_normalised(channel: Tensor, size: tuple[int, int], *, align_corners: bool = False) -> Tensor:
    """ScoreCAM's mask by our definition; the `grad-cam` package aligns corners."""
    # In double precision, for the rounding of an upsampled constant must not pass for contrast.
    upsampled = interpolate(channel.double()[None, None], size, mode="bilinear", align_corners=align_corners)[0, 0]
    return min_max(upsampled).to(channel.dtype)


def normalised_then_upsampled(channel: Tensor, size: tuple[int, int]) -> Tensor:
    """ScoreCAM's mask by the `torchcam` package: it need not reach 0 or 1."""
    normalised = min_max(channel.double())
    return interpolate(normalised[None, None], size, mode="bilinear", align_corners=False)[0, 0].to(channel.dtype)


def min_max(values: Tensor) -> Tensor:
    """Brings values to [0, 1]."""
    return (values - values.min()) / (values.max() - values.min() + 1e-7)


def seen_through_channels(
    model: nn.Module, path: str, image: Tensor, mask: Mask, *, channels_last: bool = False
) -> tuple[Tensor, Tensor]:
    """A layer's activations, (channel, height, width), and the logits of the image masked by each channel."""
    activations = channels_first(_run(model, path, image[None])[0][0], channels_last)
    size = (image.shape[1], image.shape[2])
    with torch.no_grad():
        logits = [model((image * mask(channel, size))[None])[0] for channel in activations]
    return activations, torch.stack(logits)


def channels_first(activations: Tensor, channels_last: bool) -> Tensor:
    """One image's activations as (channel, height, width)."""
    return activations.permute(2, 0, 1) if channels_last else activations


def scorecam(activations: Tensor, logits: Tensor, utility: Utility, target: int) -> Tensor:
    """Sum over channels of s_i A_i, s the softmax of what the utility pays for each channel's masked image."""
    scores = [utility.of(row[None], torch.tensor([target]))[0] for row in logits]
    total = sum(score.exp() for score in scores)
    return sum(score.exp() / total * channel for score, channel in zip(scores, activations, strict=True))


def without_channels(
    model: nn.Module, path: str, image: Tensor, *, channels_last: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """A layer's activations, the logits, and the logits of the whole network without each channel, by a hook."""
    axis = 2 if channels_last else 0
    activations, logits = _run(model, path, image[None])
    ablated = []
    for channels in torch.arange(activations[0].shape[axis]).split(_ROWS):

        def zero_channels(output: Tensor, chosen: Tensor = channels) -> Tensor:
            output = output.clone()
            for row, channel in zip(output, chosen, strict=True):
                row.select(axis, int(channel)).zero_()
            return output

        ablated.append(_run(model, path, image.expand(len(channels), -1, -1, -1), zero_channels)[1])
    return channels_first(activations[0], channels_last), logits, torch.cat(ablated)


def ablationcam(activations: Tensor, logits: Tensor, ablated: Tensor, utility: Utility, target: int) -> Tensor:
    """Sum over channels of (U(A) - U(A with A_i set to zero)) A_i."""
    result = torch.zeros_like(activations[0])
    for channel, without in zip(activations, ablated, strict=True):
        values = utility.of(torch.stack([logits[0], without]), torch.tensor([target, target]))
        result += (values[0] - values[1]) * channel
    return result


VIEWS = {
    "flip": [(False, 1.0), (True, 1.0)],
    "flip-scale": [(mirrored, factor) for mirrored in (False, True) for factor in (1.0, 0.9, 1.1)],
}


def smoothed_by_hand(
    split: SplitNetwork, image: Tensor, question: Question, smooth: str
) -> tuple[Tensor, Tensor, list[Explanation]]:
    """Attribution and heatmap as means over the views, each explained as an image of its own."""
    alone = []
    for mirrored, factor in VIEWS[smooth]:
        view = (image.flip(2) if mirrored else image) * factor
        alone.append(explain(split, view[None], [replace(question, image_index=0)], metrics=False).explanations[0])
    mirrors = [mirrored for mirrored, _factor in VIEWS[smooth]]
    attribution, heatmap = (
        sum(view.flip(1) if mirrored else view for view, mirrored in zip(maps, mirrors, strict=True)) / len(alone)
        for maps in ([one.attribution for one in alone], [one.heatmap for one in alone])
    )
    return attribution, min_max(heatmap), alone


def _run(
    model: nn.Module, path: str, images: Tensor, change: Callable[[Tensor], Tensor] = torch.clone
) -> tuple[Tensor, Tensor]:
    """What a layer computes, and the logits after a change of it."""
    found: list[Tensor] = []

    def hook(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        # A copy, for a ReLU in place may follow.
        found.append(output.clone())
        return change(output)

    handle = model.get_submodule(path).register_forward_hook(hook)
    try:
        with torch.no_grad():
            logits = model(images)
    finally:
        handle.remove()
    return found[-1], logits

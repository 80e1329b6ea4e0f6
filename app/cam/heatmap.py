"""From a signed attribution to the heatmap that people see."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import interpolate, relu

_EPSILON = 1e-7


def heatmap(
    attribution: Float[Tensor, "row grid_height grid_width"], size: tuple[int, int]
) -> Float[Tensor, "row height width"]:
    """Keeps the positive evidence, normalises it, and lays it over the network's input.

    ReLU, min-max, bilinear upsampling with half-pixel centres and no antialiasing, min-max once more, as the
    published code does.

    Args:
        attribution: signed, one map a row; entries that are not finite count as no evidence.
        size: (height, width) of the network's input in px.

    Returns:
        Values in [0, 1]; all zeros where an attribution is constant or nowhere positive.
    """
    positive = relu(torch.nan_to_num(attribution, nan=0.0, posinf=0.0, neginf=0.0))
    enlarged = interpolate(min_max(positive)[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    return min_max(enlarged)


def mean_heatmap(heatmaps: Float[Tensor, "map height width"]) -> Float[Tensor, "height width"]:
    """Averages heatmaps, of several layers or of several views of an image, and normalises once more.

    Args:
        heatmaps: in [0, 1]; one alone stays as it is.

    Returns:
        Values in [0, 1].
    """
    return heatmaps[0] if len(heatmaps) == 1 else min_max(heatmaps.mean(dim=0)[None])[0]


def is_constant(maps: Float[Tensor, "row height width"]) -> Bool[Tensor, " row"]:
    """Whether all values of a map are the same."""
    return maps.amax(dim=(1, 2)) == maps.amin(dim=(1, 2))


def min_max(maps: Float[Tensor, "row height width"]) -> Float[Tensor, "row height width"]:
    """Brings each map to [0, 1]; all zeros where it is constant."""
    shifted = maps - maps.amin(dim=(1, 2), keepdim=True)
    return shifted / (_EPSILON + shifted.amax(dim=(1, 2), keepdim=True))

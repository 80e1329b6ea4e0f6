"""Between a picture's pixels and the tensors that a network takes."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

from service_models.spec import Preprocessing


def normalise(
    pictures: torch.Tensor | Sequence[torch.Tensor], preprocessing: Preprocessing, device: torch.device | str
) -> torch.Tensor:
    """Makes the network's input of rendered views: (x / 255 - mean) / std for each channel.

    Args:
        pictures: each HWC, with the channels that the network takes: uint8, [0, 255]; or float32, the levels of a
            picture of more than 8 bits, of which `preprocessing.max_value` is 1 and limits the others.
        preprocessing: gives mean and deviation, for values in [0, 1].
        device: where the network runs; the bytes travel there before they become floats.

    Returns:
        NCHW float32 on `device`; on the CPU bit-identical to torchvision's ToTensor and Normalize.
    """
    if not isinstance(pictures, torch.Tensor):
        if len({picture.dtype for picture in pictures}) > 1:
            return torch.cat([normalise(picture[None], preprocessing, device) for picture in pictures])
        pictures = torch.stack(list(pictures))
    mean, std = _channel_statistics(preprocessing, torch.device(device))
    if mean.device.type == "cuda":
        pictures = pictures.pin_memory()  # or the copy would wait for the device
    # A copy in any case: one channel counts as contiguous either way, and convolutions would take it for channels last,
    # after which a network's own `view` fails.
    planes = pictures.to(device, non_blocking=True).permute(0, 3, 1, 2).clone(memory_format=torch.contiguous_format)
    if planes.dtype == torch.uint8:
        scaled = planes.to(torch.float32).div_(255)
    else:
        scaled = planes.div(preprocessing.max_value).clamp_(0, 1)
    return scaled.sub_(mean).div_(std)


def denormalise(x: torch.Tensor, preprocessing: Preprocessing) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Makes a picture of a network's input: round(255 * (x * std + mean)), clipped.

    Args:
        x: CHW float32, normalised; e.g. an explanation map, whose masked pixels (0) become the mean colour.
        preprocessing: gives mean and deviation, for values in [0, 1].

    Returns:
        HWC uint8, [0, 255], with the channels that the network takes.
    """
    mean, std = _channel_statistics(preprocessing, x.device)
    levels = (x.detach() * std + mean).mul_(255).round_().clamp_(0, 255)
    return levels.to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()


def heatmap_levels(heatmap: torch.Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Makes a grey picture of a heatmap: round(255 * heatmap).

    Args:
        heatmap: (height, width) float, [0, 1].

    Returns:
        HW uint8, [0, 255].
    """
    levels = heatmap.detach().float().mul(255).round_().clamp_(0, 255)
    return levels.to(torch.uint8).cpu().numpy()


@lru_cache(maxsize=64)
def _channel_statistics(preprocessing: Preprocessing, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    mean = torch.tensor(preprocessing.mean, dtype=torch.float32, device=device)
    std = torch.tensor(preprocessing.std, dtype=torch.float32, device=device)
    return mean.view(-1, 1, 1), std.view(-1, 1, 1)

"""Between a picture's pixels and the tensors that a network takes."""

from functools import lru_cache

import numpy as np
import torch

from service_models.spec import Preprocessing


def normalise(batch: torch.Tensor, preprocessing: Preprocessing, device: torch.device | str) -> torch.Tensor:
    """Makes the network's input of rendered views: (x / 255 - mean) / std for each channel.

    Args:
        batch: NHWC uint8, [0, 255].
        preprocessing: gives mean and deviation, for values in [0, 1].
        device: where the network runs; the bytes travel there before they become floats.

    Returns:
        NCHW float32 on `device`; on the CPU bit-identical to torchvision's ToTensor and Normalize.
    """
    mean, std = _channel_statistics(preprocessing, torch.device(device))
    if mean.device.type == "cuda":
        batch = batch.pin_memory()  # or the copy would wait for the device
    planes = batch.to(device, non_blocking=True).permute(0, 3, 1, 2).contiguous()
    return planes.to(torch.float32).div_(255).sub_(mean).div_(std)


def denormalise(x: torch.Tensor, preprocessing: Preprocessing) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Makes a picture of a network's input: round(255 * (x * std + mean)), clipped.

    Args:
        x: CHW float32, normalised; e.g. an explanation map, whose masked pixels (0) become the mean colour.
        preprocessing: gives mean and deviation, for values in [0, 1].

    Returns:
        HWC uint8, [0, 255].
    """
    mean, std = _channel_statistics(preprocessing, x.device)
    levels = (x.detach() * std + mean).mul_(255).round_().clamp_(0, 255)
    return levels.to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()


@lru_cache(maxsize=64)
def _channel_statistics(preprocessing: Preprocessing, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    mean = torch.tensor(preprocessing.mean, dtype=torch.float32, device=device)
    std = torch.tensor(preprocessing.std, dtype=torch.float32, device=device)
    return mean.view(3, 1, 1), std.view(3, 1, 1)

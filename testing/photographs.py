"""The photographs inside the scikit-image package, as a network sees them."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage import data
from torch import Tensor

from app.imaging.tensors import normalise
from app.imaging.view import render_view
from service_models import Preprocessing

PHOTOGRAPHS = (
    "chelsea.png", "coffee.png", "rocket.jpg", "astronaut.png", "camera.png", "motorcycle_left.png", "coins.png",
    "clock_motion.png", "moon.png", "hubble_deep_field.jpg", "retina.jpg", "brick.png", "grass.png", "gravel.png",
)  # fmt: skip


def photographs(preprocessing: Preprocessing, names: tuple[str, ...] = PHOTOGRAPHS) -> Tensor:
    """Normalised, (photograph, 3, height, width)."""
    folder = Path(data.__file__).parent
    pictures = [Image.open(folder / name).convert("RGB") for name in names]
    views = np.stack([np.asarray(render_view(picture, preprocessing)) for picture in pictures])
    return normalise(torch.from_numpy(views), preprocessing, "cpu")

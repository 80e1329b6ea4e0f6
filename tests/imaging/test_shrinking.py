"""Pictures become as small as overlays are, and stay what they show."""

import numpy as np
import pytest
from PIL import Image

from app.imaging.shrinking import shrink


@pytest.mark.parametrize(
    ("size", "max_side", "expected"),
    [
        ((600, 400), 1024, (600, 400)),
        ((600, 400), 600, (600, 400)),
        ((600, 400), 0, (600, 400)),
        ((600, 400), 300, (300, 200)),
        ((400, 601), 300, (200, 300)),
        ((8, 5000), 16, (1, 16)),
        ((5000, 8), 100, (100, 1)),
    ],
)
def test_pictures_are_scaled_down_never_up(size: tuple[int, int], max_side: int, expected: tuple[int, int]) -> None:
    assert shrink(Image.new("RGB", size), max_side).size == expected


def test_scaling_down_is_antialiased() -> None:
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[:, ::2] = 255
    small = np.asarray(shrink(Image.fromarray(stripes), 100)).astype(int)
    assert np.abs(small[5:-5, 5:-5] - 127).max() <= 3

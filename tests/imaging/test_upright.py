"""A part of a picture is found again after the picture's turn."""

import numpy as np
import pytest
from PIL import Image

from app.imaging.upright import turned_box, turned_size


@pytest.mark.parametrize("turn", [None, *Image.Transpose])
def test_the_box_of_a_turned_part_is_where_pillow_brings_it(turn: Image.Transpose | None) -> None:
    whole = np.zeros((7, 11), np.uint8)
    whole[:5, :8] = 255
    picture = Image.fromarray(whole)
    turned = picture.transpose(turn) if turn is not None else picture
    assert turned_size(picture.size, turn) == turned.size
    assert turned_box((8.0, 5.0), picture.size, turn) == turned.getbbox()

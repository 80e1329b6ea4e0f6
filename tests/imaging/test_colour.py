"""Colour tables are matplotlib's colour maps."""

import matplotlib
import numpy as np
import pytest

from app.imaging.colour import colormap_names, colormap_table


@pytest.mark.parametrize("name", colormap_names())
def test_every_table_equals_the_colormap_of_matplotlib(name: str) -> None:
    table = colormap_table(name)
    assert len(table) == 3 * 256
    levels = range(256) if name in {"jet", "tab10"} else range(0, 256, 17)
    expected = [matplotlib.colormaps[name](level / 255, bytes=True)[:3] for level in levels]
    colours = np.frombuffer(table, np.uint8).reshape(256, 3)
    np.testing.assert_array_equal(colours[list(levels)], np.array(expected))


def test_names_include_the_usual_and_the_reversed_ones() -> None:
    assert {"jet", "viridis", "turbo", "jet_r", "gray"} <= set(colormap_names())
    assert list(colormap_names()) == sorted(colormap_names())


def test_an_unknown_colormap_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown colormap 'sepia'"):
        colormap_table("sepia")

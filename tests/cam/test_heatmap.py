"""The heatmap against the published code's."""

import numpy as np
import pytest
import torch
from pytorch_grad_cam.utils.image import scale_cam_image

from app.cam.heatmap import heatmap, is_constant


@pytest.mark.parametrize(("grid", "size"), [((7, 7), (224, 224)), ((14, 14), (224, 224)), ((5, 7), (160, 224))])
def test_heatmap_equals_the_published_one(grid: tuple[int, int], size: tuple[int, int]) -> None:
    attribution = torch.randn(3, *grid, generator=torch.Generator().manual_seed(1))
    positive = np.maximum(attribution.numpy(), 0)
    # BaseCAM scales each layer's map to the image, then scales the mean over layers once more.
    expected = scale_cam_image(scale_cam_image(positive, size[::-1]))
    np.testing.assert_allclose(heatmap(attribution, size).numpy(), expected, atol=1e-5)


def test_heatmap_lies_between_zero_and_one_with_its_strongest_evidence_at_one() -> None:
    found = heatmap(torch.randn(4, 7, 7, generator=torch.Generator().manual_seed(2)), (224, 224))
    assert found.amin() == 0
    torch.testing.assert_close(found.amax(dim=(1, 2)), torch.ones(4))


@pytest.mark.parametrize("value", [0.0, -1.0, 2.5])
def test_a_map_without_evidence_is_all_zeros(value: float) -> None:
    assert torch.count_nonzero(heatmap(torch.full((1, 7, 7), value), (224, 224))) == 0


def test_entries_that_are_not_finite_are_no_evidence() -> None:
    attribution = torch.ones(1, 3, 3)
    attribution[0, 0] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    found = heatmap(attribution, (9, 9))
    assert found.isfinite().all()
    assert found[0, 0].max() == 0


def test_is_constant() -> None:
    maps = torch.zeros(2, 4, 4)
    maps[1, 0, 0] = 1e-30
    assert is_constant(maps).tolist() == [True, False]

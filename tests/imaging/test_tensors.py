"""Pixels become what torchvision makes of them, and come back."""

import numpy as np
import torch
from torchvision import transforms

from app.imaging.tensors import denormalise, normalise
from app.imaging.view import render_view
from service_models.spec import Preprocessing
from testing.pictures import noise, photograph


def test_normalise_is_bit_identical_to_torchvision() -> None:
    preprocessing = Preprocessing()
    chain = transforms.Compose([transforms.ToTensor(), transforms.Normalize(preprocessing.mean, preprocessing.std)])
    views = [render_view(photograph(name), preprocessing) for name in ("chelsea", "coffee", "rocket")]
    batch = normalise(torch.from_numpy(np.stack(views)), preprocessing, "cpu")
    expected = torch.stack([chain(view) for view in views])
    assert batch.dtype == torch.float32
    assert batch.is_contiguous()
    assert torch.equal(batch, expected)


def test_normalise_leaves_the_views_as_they_are() -> None:
    views = torch.from_numpy(noise(8, 8, 3))[None]
    before = views.clone()
    normalise(views, Preprocessing(), "cpu")
    assert torch.equal(views, before)


def test_denormalise_undoes_normalise() -> None:
    preprocessing = Preprocessing()
    levels = torch.arange(256, dtype=torch.uint8).view(16, 16, 1).expand(16, 16, 3)
    batch = normalise(levels[None], preprocessing, "cpu")
    np.testing.assert_array_equal(denormalise(batch[0], preprocessing), levels.numpy())


def test_denormalise_shows_masked_pixels_in_the_mean_colour_and_clips() -> None:
    preprocessing = Preprocessing()
    assert denormalise(torch.zeros(3, 1, 1), preprocessing).ravel().tolist() == [124, 116, 104]
    assert denormalise(torch.full((3, 1, 1), 99.0), preprocessing).ravel().tolist() == [255, 255, 255]
    assert denormalise(torch.full((3, 1, 1), -99.0), preprocessing).ravel().tolist() == [0, 0, 0]

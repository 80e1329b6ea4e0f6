"""The views of an image over which explanations are averaged: itself, its mirror image, scaled ones."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from app.cam.state import SplitState

Smooth = Literal["none", "flip", "flip-scale"]

# Each smoothing's views of an image: whether it is mirrored, and the factor. The image itself comes first.
_VIEWS: dict[Smooth, tuple[tuple[bool, float], ...]] = {
    "none": ((False, 1.0),),
    "flip": ((False, 1.0), (True, 1.0)),
    "flip-scale": tuple((mirrored, factor) for mirrored in (False, True) for factor in (1.0, 0.9, 1.1)),
}


@dataclass(frozen=True, slots=True)
class Views:
    """Images as the network is shown them, all views of one image in consecutive rows.

    Attributes:
        images: the views.
        state: what the trunk made of them.
        mirrored: of the views of one image, which are mirrored.
    """

    images: Float[Tensor, "view colour height width"]
    state: SplitState
    mirrored: tuple[bool, ...]

    @property
    def count(self) -> int:
        """How many views there are of each image."""
        return len(self.mirrored)

    def of_images_themselves(self) -> SplitState:
        """What the trunk made of each image, unmirrored and unscaled."""
        first = torch.arange(0, len(self.images), self.count, device=self.images.device)
        return self.state.take(first)

    def mirrored_back(self, maps: Float[Tensor, "view height width"]) -> Float[Tensor, "view height width"]:
        """Maps of the views of one image, all as the image lies."""
        if self.count == 1:
            return maps
        return torch.stack([view.flip(1) if flip else view for view, flip in zip(maps, self.mirrored, strict=True)])


def view_count(smooth: Smooth) -> int:
    """How many views of an image the network is shown."""
    return len(_VIEWS[smooth])


def views_of(images: Float[Tensor, "batch colour height width"], smooth: Smooth) -> tuple[Tensor, tuple[bool, ...]]:
    """All views of a batch, image by image, and which of an image's are mirrored."""
    if smooth == "none":
        return images, (False,)
    views = [(images.flip(3) if mirrored else images) * factor for mirrored, factor in _VIEWS[smooth]]
    return torch.stack(views, dim=1).flatten(0, 1), tuple(mirrored for mirrored, _ in _VIEWS[smooth])

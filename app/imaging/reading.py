"""Makes of a posted file all that the service needs of it: what the network sees, and what overlays are laid on."""

from dataclasses import dataclass

from PIL import Image

from app.imaging.decode import OpenedImage, load_image
from app.imaging.shrinking import shrink, shrunk_size
from app.imaging.view import Evaluation, Fit, render_view, resized_size

# A JPEG of which little is needed can be decoded to fewer pixels, in half the time and a quarter of the memory. There
# are then still three times as many per side as the network takes, or more, and one and a half times as many as
# overlays commonly have: on photographs of 12 megapixels the input differs from that of the full picture by 0.1 to 0.2
# levels of 255 in the mean and 3 at most, the base by 0.2 to 0.8 and 15.
_TIMES_THE_VIEW = 3.0
_TIMES_THE_BASE = 1.5
# What the network sees must not depend on the size of the overlays that somebody asks for.
_COMMON_MAX_SIDE = 1024


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be made of a picture.

    Attributes:
        fit: how the picture is brought to the shape of the network's input.
        input_size: (height, width) of the network's input in px.
        resize_size: length of the short side before the crop in px.
        interpolation: the filter of the resize: nearest, bilinear, bicubic or lanczos.
        mean: the training mean of each channel, for values in [0, 1].
        max_side: longest side in px of the overlays, 0 for the original's; None where no overlay is wanted.
    """

    fit: Fit
    input_size: tuple[int, int]
    resize_size: int
    interpolation: str
    mean: tuple[float, float, float]
    max_side: int | None

    @classmethod
    def of(cls, preprocessing: Evaluation, fit: Fit = "crop", max_side: int | None = None) -> "Order":
        """The order for a network."""
        return cls(
            fit,
            preprocessing.input_size,
            preprocessing.resize_size,
            preprocessing.interpolation,
            preprocessing.mean,
            max_side,
        )


@dataclass(frozen=True, slots=True)
class ReadImage:
    """What was made of a picture.

    Attributes:
        format: "JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF" or "AVIF".
        width: of the upright original in px.
        height: of the upright original in px.
        view: the network's input before normalisation, mode RGB.
        base: the upright original, shrunk to the size of the overlays, mode RGB; None where none is wanted.
    """

    format: str
    width: int
    height: int
    view: Image.Image
    base: Image.Image | None


def read_image(opened: OpenedImage, order: Order) -> ReadImage:
    """Decodes an opened file and makes of it what was ordered.

    A JPEG that is much larger than what a network sees and overlays commonly show is decoded to fewer pixels, see
    `view_reduction`; where larger overlays are wanted it is decoded once more for them. All other pictures are decoded
    in full, and `crop` is then bit-identical to torchvision's transforms. In either case the view depends on the
    picture, the network and the fit alone.

    Raises:
        ImageUnreadable: cut short, corrupt, or of pixels that cannot be shown in 8 bits.
        MemoryError: it needs more than there is.
    """
    decoded = load_image(opened, lambda width, height: view_reduction(width, height, order))
    size = (decoded.width, decoded.height)
    view = render_view(decoded.pixels, order, order.fit, size=size, box=decoded.box)
    if order.max_side is None:
        return ReadImage(decoded.format, *size, view, None)
    base_reduction = _reduction(size, _needed_for_base(size, order.max_side))
    if decoded.reduction > base_reduction:
        decoded = load_image(opened.again(), lambda _width, _height: base_reduction)
    return ReadImage(decoded.format, *size, view, shrink(decoded.pixels, order.max_side, size=size, box=decoded.box))


def view_reduction(width: int, height: int, order: Order) -> int:
    """By how much the sides of a JPEG may be divided before what the network sees is made of it: 1, 2, 4 or 8.

    Args:
        width: of the upright original in px.
        height: of the upright original in px.
        order: what will be made of it.
    """
    if order.interpolation == "nearest":
        # It takes single pixels, and those of a smaller picture are means.
        return 1
    base = _needed_for_base((width, height), _COMMON_MAX_SIDE)
    view = resized_size(width, height, order, order.fit)
    needed = max(base[0], _TIMES_THE_VIEW * view[0]), max(base[1], _TIMES_THE_VIEW * view[1])
    return _reduction((width, height), needed)


def _needed_for_base(size: tuple[int, int], max_side: int) -> tuple[float, float]:
    width, height = shrunk_size(size, max_side)
    return _TIMES_THE_BASE * width, _TIMES_THE_BASE * height


def _reduction(size: tuple[int, int], needed: tuple[float, float]) -> int:
    return next((by for by in (8, 4, 2) if size[0] / by >= needed[0] and size[1] / by >= needed[1]), 1)

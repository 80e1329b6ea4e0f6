"""Makes all that the service needs of a posted file: the network's input, and the picture under the overlays."""

from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from app.imaging.decode import DecodedImage, OpenedImage, load_image
from app.imaging.formats import FORMATS
from app.imaging.pixels import Depth, levels_to_rgb
from app.imaging.shrinking import shrink, shrunk_size
from app.imaging.view import Fit, ViewSpec, render_view, resized_size

# A JPEG of which little is needed can be decoded to fewer pixels, in half the time and a quarter of the memory. There
# are then still three times as many per side as the network takes, or more, and one and a half times as many as
# overlays commonly have: on photographs of 12 megapixels the input differs from that of the full picture by 0.1 to 0.2
# levels of 255 in the mean and 3 at most, the base by 0.2 to 0.8 and 15.
_TIMES_THE_VIEW = 3.0
_TIMES_THE_BASE = 1.5
# What the network sees must not depend on the size of the overlays that somebody asks for.
_COMMON_MAX_SIDE = 1024

# A pixel's in all copies that a decoder and what follows hold at a time; and what a progressive JPEG keeps of each
# until its last scan.
_WORKING_BYTES = 16
_COEFFICIENT_BYTES = 4


class NetworkView(ViewSpec, Protocol):
    """What a network's `service_models.spec.Preprocessing` says of pictures."""

    @property
    def max_value(self) -> int:
        """What is white in a picture of more than 8 bits a channel."""

    @property
    def fit(self) -> Fit:
        """How a picture is brought to the shape of the input where a request does not say."""


@dataclass(frozen=True, slots=True)
class DecodeSpec:
    """What to make of a posted picture.

    Attributes:
        fit: how the picture is brought to the shape of the network's input.
        input_size: (height, width) of the network's input in px.
        resize_size: length of the short side before the crop in px.
        interpolation: the filter of the resize: nearest, bilinear, bicubic or lanczos.
        mean: the training mean of each channel, for values in [0, 1]; there are as many channels.
        max_value: what is white in a picture of more than 8 bits a channel.
        max_side: longest side in px of the overlays, 0 for the original's; None where no overlay is wanted.
    """

    fit: Fit
    input_size: tuple[int, int]
    resize_size: int
    interpolation: str
    mean: tuple[float, ...]
    max_value: int
    max_side: int | None

    @classmethod
    def of(cls, preprocessing: NetworkView, fit: Fit | None = None, max_side: int | None = None) -> "DecodeSpec":
        """The spec for a network, with its own fit where none is given."""
        return cls(
            fit or preprocessing.fit,
            preprocessing.input_size,
            preprocessing.resize_size,
            preprocessing.interpolation,
            preprocessing.mean,
            preprocessing.max_value,
            max_side,
        )


@dataclass(frozen=True, slots=True)
class ReadImage:
    """A posted picture, read as a `DecodeSpec` asks.

    Attributes:
        format: its name in `app.imaging.formats.FORMATS`.
        width: of the upright original in px.
        height: of the upright original in px.
        view: the network's input before normalisation: HWC, 8 bits a channel, [0, 255]; of a picture of more bits
            CHW, float32, [0, max_value].
        depth: how a picture of more than 8 bits uses its range; None for others.
        base: the upright original, shrunk to the size of the overlays, mode RGB; None where none is wanted.
    """

    format: str
    width: int
    height: int
    view: bytes
    depth: Depth | None
    base: Image.Image | None


def read_image(opened: OpenedImage, spec: DecodeSpec) -> ReadImage:
    """Decodes an opened file and makes of it what the spec asks for.

    A JPEG that is much larger than what a network sees and overlays commonly show is decoded to fewer pixels, see
    `view_reduction`; where larger overlays are wanted it is decoded once more for them. All other pictures are decoded
    in full, and `crop` is then bit-identical to torchvision's transforms; those of more than 8 bits keep them up to
    the network. In either case the view depends on the
    picture, the network and the fit alone.

    Raises:
        ImageUnreadable: cut short, corrupt, or of pixels that cannot be shown in 8 bits.
        MemoryError: it needs more than there is.
    """
    decoded = load_image(opened, lambda width, height: view_reduction(width, height, spec), spec.max_value)
    size = (decoded.width, decoded.height)
    view = _view_of(decoded, spec)
    if spec.max_side is None:
        return ReadImage(decoded.format, *size, view, decoded.depth, None)
    base_reduction = _reduction(size, _needed_for_base(size, spec.max_side))
    if decoded.reduction > base_reduction:
        decoded = load_image(opened.reopen(), lambda _width, _height: base_reduction)
    pixels = decoded.pixels if decoded.depth is None else levels_to_rgb(decoded.pixels, spec.max_value)
    base = shrink(pixels, spec.max_side, size=size, box=decoded.box)
    return ReadImage(decoded.format, *size, view, decoded.depth, base)


def _view_of(decoded: DecodedImage, spec: DecodeSpec) -> bytes:
    def render(fill: float | None = None) -> Image.Image:
        size = (decoded.width, decoded.height)
        return render_view(decoded.pixels, spec, spec.fit, size=size, box=decoded.box, fill=fill)

    if decoded.depth is None:
        seen = render()
        return (seen if len(spec.mean) > 1 else seen.convert("L")).tobytes()
    # The channels of a grey picture differ in nothing but the letterbox.
    fills = [spec.max_value * mean for mean in spec.mean] if spec.fit == "pad" else [0.0] * len(spec.mean)
    planes = {fill: render(fill).tobytes() for fill in set(fills)}
    return b"".join(planes[fill] for fill in fills)


def view_reduction(width: int, height: int, spec: DecodeSpec) -> int:
    """By how much the sides of a JPEG may be divided before what the network sees is made of it: 1, 2, 4 or 8.

    Args:
        width: of the upright original in px.
        height: of the upright original in px.
        spec: what to make of it.
    """
    if spec.interpolation == "nearest":
        # It takes single pixels, and those of a smaller picture are means.
        return 1
    base = _needed_for_base((width, height), _COMMON_MAX_SIDE)
    view = resized_size(width, height, spec, spec.fit)
    needed = max(base[0], _TIMES_THE_VIEW * view[0]), max(base[1], _TIMES_THE_VIEW * view[1])
    return _reduction((width, height), needed)


def working_bytes(file_format: str, width: int, height: int, spec: DecodeSpec) -> int:
    """About how much memory the making of a picture takes, besides what is made.

    Args:
        file_format: its name.
        width: of the original in px, as stored or upright.
        height: the same.
        spec: what to make of it.
    """
    if not FORMATS[file_format].can_reduce:
        return _WORKING_BYTES * width * height
    size = (width, height)
    reduction = view_reduction(width, height, spec)
    if spec.max_side is not None:
        reduction = min(reduction, _reduction(size, _needed_for_base(size, spec.max_side)))
    return (_WORKING_BYTES // reduction**2 + _COEFFICIENT_BYTES) * width * height


def _needed_for_base(size: tuple[int, int], max_side: int) -> tuple[float, float]:
    width, height = shrunk_size(size, max_side)
    return _TIMES_THE_BASE * width, _TIMES_THE_BASE * height


def _reduction(size: tuple[int, int], needed: tuple[float, float]) -> int:
    return next((by for by in (8, 4, 2) if size[0] / by >= needed[0] and size[1] / by >= needed[1]), 1)

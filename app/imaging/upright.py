"""Which way up a picture is, by what its camera wrote into its EXIF."""

from PIL import ExifTags, Image

Box = tuple[float, float, float, float]

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_LEFT, _TOP, _RIGHT, _BOTTOM = range(4)
# The edges of the turned picture at which its right and its lower edge come to lie.
_TURNED_EDGES = {
    Image.Transpose.FLIP_LEFT_RIGHT: (_LEFT, _BOTTOM),
    Image.Transpose.ROTATE_180: (_LEFT, _TOP),
    Image.Transpose.FLIP_TOP_BOTTOM: (_RIGHT, _TOP),
    Image.Transpose.TRANSPOSE: (_BOTTOM, _RIGHT),
    Image.Transpose.ROTATE_270: (_BOTTOM, _LEFT),
    Image.Transpose.TRANSVERSE: (_TOP, _LEFT),
    Image.Transpose.ROTATE_90: (_TOP, _RIGHT),
}
_SWAPPED = {turn for turn, edges in _TURNED_EDGES.items() if edges[0] in {_TOP, _BOTTOM}}


def upright_turn(image: Image.Image) -> Image.Transpose | None:
    """Reads how a picture is to be turned; None where it stands upright, or nothing sensible is said."""
    # `ImageOps.exif_transpose` also writes the EXIF anew, which fails on broken entries that we do not use.
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except MemoryError:
        raise
    except Exception:
        # The picture is whole even where what the camera wrote about it is not.
        return None


def turned_size(size: tuple[int, int], turn: Image.Transpose | None) -> tuple[int, int]:
    """The (width, height) in px of a picture after its turn."""
    return size[::-1] if turn in _SWAPPED else size


def turned_box(stored: tuple[float, float], size: tuple[int, int], turn: Image.Transpose | None) -> Box:
    """Where that which filled the top left of a picture lies after the picture's turn.

    Args:
        stored: (width, height) of the part that reaches from the top left corner, before the turn, in px.
        size: (width, height) of the whole before the turn in px; at least `stored`.
        turn: of the whole.

    Returns:
        (left, top, right, bottom) of the part in px of the turned whole.
    """
    box = [0.0, 0.0, *map(float, turned_size(size, turn))]
    edges = _TURNED_EDGES[turn] if turn is not None else (_RIGHT, _BOTTOM)
    for edge, beyond in zip(edges, (size[0] - stored[0], size[1] - stored[1]), strict=True):
        box[edge] += beyond if edge in {_LEFT, _TOP} else -beyond
    return box[0], box[1], box[2], box[3]

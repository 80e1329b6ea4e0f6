"""Pictures in and out: decoding uploads, what a network sees of them, colour, overlays and PNG."""

from app.imaging.colour import DEFAULT_COLORMAP, colormap_names, colormap_table
from app.imaging.decode import ACCEPTED_FORMATS, MIN_SIDE_PX, DecodedImage, decode
from app.imaging.errors import (
    ImageTooSmall,
    ImageUnreadable,
    ImagingError,
    TooManyPixels,
    UnsupportedImage,
)
from app.imaging.overlay import heatmap_image, overlay, overlays, shrink, shrunk_size
from app.imaging.png import encode_png
from app.imaging.sheet import Cell, contact_sheet, sheet_size
from app.imaging.view import FITS, Fit, View, denormalise, make_view, normalise, render_view

__all__ = [
    "ACCEPTED_FORMATS",
    "DEFAULT_COLORMAP",
    "FITS",
    "MIN_SIDE_PX",
    "Cell",
    "DecodedImage",
    "Fit",
    "ImageTooSmall",
    "ImageUnreadable",
    "ImagingError",
    "TooManyPixels",
    "UnsupportedImage",
    "View",
    "colormap_names",
    "colormap_table",
    "contact_sheet",
    "decode",
    "denormalise",
    "encode_png",
    "heatmap_image",
    "make_view",
    "normalise",
    "overlay",
    "overlays",
    "render_view",
    "sheet_size",
    "shrink",
    "shrunk_size",
]

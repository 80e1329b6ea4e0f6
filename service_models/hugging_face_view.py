"""The evaluation view that an image processor of the library transformers states, from its file."""

from __future__ import annotations

import importlib
import logging
import math
from collections.abc import Mapping
from typing import Any

from service_models.files import printable
from service_models.hugging_face import transformers_library
from service_models.spec import Interpolation

_log = logging.getLogger(__name__)

# The numbers of Pillow's filters.
_FILTERS: dict[int, Interpolation] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
# The steps of a processor. A class with steps of its own is taken only where they are written down here.
_STEPS = ("preprocess", "_preprocess", "resize", "center_crop", "rescale", "normalize", "rescale_and_normalize")
# Their own steps change labels of segmentation, and no picture.
_PLAIN_ALL_THE_SAME = {"BeitImageProcessor", "MobileNetV2ImageProcessor", "SegformerImageProcessor"}
_CONVNEXT, _EFFICIENTNET, _LEVIT, _POOLFORMER = (
    f"{name}ImageProcessor" for name in ("ConvNext", "EfficientNet", "Levit", "PoolFormer")
)
# From this side on, ConvNeXt's processor stretches pictures instead of cutting them.
_CONVNEXT_STRETCHES_PX = 384


def processor_view(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The fields of `Preprocessing` that a processor states.

    Args:
        content: of `preprocessor_config.json`.
        name: of the network, for the log.

    Returns:
        `input_size`, `resize_size`, `interpolation`, `mean`, `std`, `fit`, as far as the file says them in a way that
        the service can follow. What it cannot follow is missing, and the log says why.
    """
    stated = content.get("image_processor_type") or content.get("feature_extractor_type") or ""
    kind = str(stated).replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast").removesuffix("Pil")
    library = transformers_library(name)
    known = getattr(library, kind, None) if kind.endswith("ImageProcessor") else None
    if known is None or content.get("auto_map"):
        _log.warning("%s: its image processor %s is not one of transformers' own", name, printable(stated) or "(none)")
        return {}
    if not _is_followed(known, kind):
        _log.warning("%s: its image processor %s has steps that the service does not take", name, kind)
        return {}
    try:
        processor = known.from_dict(dict(content))
        view = _geometry(processor, kind, name) | _colours(processor, kind)
    # Whatever a file may hold: without it, the entry must say the view.
    except Exception as error:
        _log.warning("%s: its image processor %s cannot be read: %s", name, kind, printable(error))
        return {}
    _log.info("%s: view of its image processor %s: %s", name, kind, view)
    return view


def _is_followed(kind: type, name: str) -> bool:
    if name in _PLAIN_ALL_THE_SAME | {_CONVNEXT, _EFFICIENTNET, _LEVIT, _POOLFORMER}:
        return True
    plain = importlib.import_module("transformers.image_processing_backends").TorchvisionBackend
    return all(getattr(kind, step, None) is getattr(plain, step, None) for step in _STEPS)


def _geometry(processor: Any, kind: str, name: str) -> dict[str, Any]:  # noqa: ANN401 - of an optional library
    """Where the input lies in the picture; empty where the picture is padded, or not resized at all."""
    size, crop = processor.size, processor.crop_size if processor.do_center_crop else None
    if not processor.do_resize or getattr(processor, "do_pad", False) or size.longest_edge or size.max_height:
        _log.warning("%s: its image processor %s does not say one size of input", name, kind)
        return {}
    found: dict[str, Any] = {}
    if processor.resample is not None and int(processor.resample) in _FILTERS:
        found["interpolation"] = _FILTERS[int(processor.resample)]
    whole, short = (size.height, size.width), size.shortest_edge
    if kind == _CONVNEXT:
        side = int(short)
        if side >= _CONVNEXT_STRETCHES_PX:
            return found | _stretched((side, side))
        return found | _cut((side, side), int(side / processor.crop_pct))
    if kind == _LEVIT and short:
        short = int(256 / 224 * short)
    if kind == _POOLFORMER and processor.crop_pct is not None:
        # A square that is stated is a short side to this one.
        short, whole = int((short or min(whole)) / processor.crop_pct), (None, None)
    if short:
        if crop is None:
            _log.warning("%s: its image processor cuts nothing off; the service shows the network the centre", name)
            return found | _cut((short, short), short)
        if max(crop.height, crop.width) > short:
            _log.warning(
                "%s: its image processor adds a black border where pictures are smaller than the crop; the service "
                "enlarges them",
                name,
            )
        return found | _cut((crop.height, crop.width), short)
    if crop is None or (crop.height, crop.width) == whole:
        return found | _stretched(whole)
    _log.warning(
        "%s: its image processor stretches pictures to %d x %d px before it cuts the centre out; the service keeps "
        "their shape, so those that are not square get another view",
        name,
        *whole,
    )
    return found | _cut((crop.height, crop.width), min(whole))


def _cut(input_size: tuple[int, int], short: int) -> dict[str, Any]:
    # A picture that does not cover the crop would be padded with black.
    return {"input_size": input_size, "resize_size": max(short, *input_size), "fit": "crop"}


def _stretched(input_size: tuple[int, int]) -> dict[str, Any]:
    return {"input_size": input_size, "resize_size": max(input_size), "fit": "stretch"}


def _colours(processor: Any, kind: str) -> dict[str, Any]:  # noqa: ANN401 - of an optional library
    """Mean and deviation for values in 0 to 1, whatever factor the processor rescales with.

    A value v of 0 to 255 becomes (f v - o - m) / s, with factor f, offset o, mean m and deviation s. For v / 255, the
    mean is (m + o) / 255 f, and the deviation s / 255 f.
    """
    factor = processor.rescale_factor if processor.do_rescale else 1.0
    mean = _numbers(processor.image_mean) if processor.do_normalize else (0.0, 0.0, 0.0)
    std = _numbers(processor.image_std) if processor.do_normalize else (1.0, 1.0, 1.0)
    offset = 0.0
    if kind == _EFFICIENTNET:
        offset = 1.0 if processor.do_rescale and processor.rescale_offset else 0.0
        # It divides by the deviation once more.
        std = tuple(value * value for value in std) if processor.include_top else std
    scale = 255 * factor
    scale = 1.0 if math.isclose(scale, 1) else scale
    return {"mean": tuple((value + offset) / scale for value in mean), "std": tuple(value / scale for value in std)}


def _numbers(value: float | list[float]) -> tuple[float, ...]:
    return tuple(map(float, value)) if isinstance(value, list | tuple) else (float(value),) * 3

"""`python -m benchmarks.pictures`: has a running service draw the pictures of docs/methods.md, and writes its figures.

The photographs come from the scikit-image package. By default a service is started for it, on the processor, with the
embedded network; `--url` names one that runs already, whose `CAM_TIMEOUT_S` must leave ScoreCAM some minutes.
"""

import argparse
import base64
import re
import statistics
import tempfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from skimage import data

from app.cam.utilities import UTILITIES
from benchmarks.measure import row, table
from testing.serving import serving

DOCS = Path(__file__).parents[1] / "docs"
FOLDER = DOCS / "methods"
MARKER = "<!-- baselines table -->"
_QUALITY = 85
_GAP_PX = 8
_TIMEOUT_S = 900

Fields = Mapping[str, object]

# Each sheet: the photograph, and the fields of `/v1/compare`.
SHEETS: dict[str, tuple[str, Fields]] = {
    "game": (
        "chelsea.png",
        {"layer": "last_conv", "method": ["shapley-sampling", "aumann-shapley", "shapleycam-h", "hirescam"]},
    ),
    "shapleycam": (
        "chelsea.png",
        {"layer": "last_conv", "method": ["shapleycam", "shapleycam-h", "shapleycam-e"]},
    ),
    "gradients": (
        "chelsea.png",
        {
            "layer": "last_conv",
            "method": ["gradcam", "hirescam", "gradcam-e", "layercam", "xgradcam", "gradcam++"],
        },
    ),
    "pre_gap": (
        "chelsea.png",
        {"layer": "pre_gap", "method": ["gradcam", "hirescam", "xgradcam", "shapleycam", "shapleycam-h"]},
    ),
    "channels": (
        "chelsea.png",
        {"utility": "pre-softmax", "method": ["cam", "scorecam", "ablationcam", "liftcam"]},
    ),
    "baselines": ("chelsea.png", {"method": ["shapleycam", "randomcam", "fakecam"]}),
    "utilities": (
        "chelsea.png",
        {"method": "gradcam", "utility": list(UTILITIES), "target": ["tiger cat", "Egyptian cat"]},
    ),
    "targets": (
        "astronaut.png",
        {"layer": "last_conv", "method": ["shapleycam", "gradcam", "shapley-sampling"],
         "target": ["predicted", "space shuttle"]},
    ),
    "background": (
        "rocket.jpg",
        {"layer": "last_conv", "method": ["shapleycam", "gradcam", "hirescam", "shapley-sampling"]},
    ),
}  # fmt: skip

MEASURED = ("chelsea.png", "coffee.png", "rocket.jpg", "astronaut.png")
BASELINES = ("shapleycam", "gradcam", "randomcam", "fakecam")
_FIGURES = (
    "average_drop",
    "coherency",
    "complexity",
    "adcc",
    "increase_in_confidence",
    "average_drop_in_deletion",
)


def main() -> None:
    """Draws, measures and writes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pictures")
    parser.add_argument("--url", help="of a service that runs already")
    url = parser.parse_args().url
    if url:
        _make(url)
        return
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), timeout_s=_TIMEOUT_S) as service:
        _make(service.url)


def _make(url: str) -> None:
    FOLDER.mkdir(exist_ok=True)
    with httpx.Client(base_url=url, timeout=_TIMEOUT_S) as client:
        _draw_sheets(client)
        _draw_maps(client)
        _write_baselines(client)


def photograph(name: str) -> bytes:
    """The central square of a photograph, which is what the network sees of it and a margin; PNG."""
    picture = Image.open(Path(data.__file__).parent / name).convert("RGB")
    side = min(picture.size)
    left, top = ((length - side) // 2 for length in picture.size)
    return _encoded(picture.crop((left, top, left + side, top + side)), "PNG")


def _draw_sheets(client: httpx.Client) -> None:
    for name, (picture, fields) in SHEETS.items():
        sheet = _post(client, "/v1/compare", picture, {"max_side": 200, **fields}, accept="image/png").content
        _save(name, Image.open(BytesIO(sheet)))


def _draw_maps(client: httpx.Client) -> None:
    """The explanation map and the anti-explanation map, beside the overlay."""
    kinds = ("overlay", "explanation_map", "anti_explanation_map")
    fields = {"include": list(kinds), "max_side": 256}
    explanation = _post(client, "/v1/explain", "chelsea.png", fields).json()["explanations"][0]
    maps = [Image.open(BytesIO(base64.b64decode(explanation[kind]["b64"]))) for kind in kinds]
    height = max(picture.height for picture in maps)
    strip = Image.new("RGB", (sum(picture.width + _GAP_PX for picture in maps) - _GAP_PX, height), "white")
    left = 0
    for picture in maps:
        strip.paste(picture, (left, (height - picture.height) // 2))
        left += picture.width + _GAP_PX
    _save("maps", strip)


def _write_baselines(client: httpx.Client) -> None:
    """Means over the photographs; ADCC of the means, as in the paper's tables."""
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in BASELINES}
    for picture in MEASURED:
        reply = _post(client, "/v1/compare", picture, {"method": list(BASELINES)}).json()
        for explanation in reply["explanations"]:
            figures[explanation["method"]].append(explanation["metrics"])
    lines = table("method", *(name.replace("_", " ").replace("adcc", "ADCC") for name in _FIGURES))
    for method, found in figures.items():
        means = {name: statistics.fmean(metrics[name] for metrics in found) for name in _FIGURES}
        parts = (means["coherency"], 100 - means["complexity"], 100 - means["average_drop"])
        means["adcc"] = statistics.harmonic_mean(parts) if min(parts) > 0 else 0.0
        lines.append(row(f"`{method}`", *(f"{means[name]:.1f}" for name in _FIGURES)))
    page = DOCS / "methods.md"
    pattern = re.compile(re.escape(MARKER) + r".*?" + re.escape(MARKER), re.DOTALL)
    written = "\n".join((MARKER, *lines, MARKER))
    page.write_text(pattern.sub(lambda _match: written, page.read_text(encoding="utf-8")), encoding="utf-8")


def _post(
    client: httpx.Client, path: str, picture: str, fields: Fields, accept: str = "application/json"
) -> httpx.Response:
    response = client.post(
        path, files={"image": photograph(picture)}, data=dict[str, Any](fields), headers={"accept": accept}
    )
    return response.raise_for_status()


def _save(name: str, picture: Image.Image) -> None:
    file = FOLDER / f"{name}.jpg"
    file.write_bytes(_encoded(picture.convert("RGB"), "JPEG"))
    print(file.relative_to(DOCS.parent), picture.size, f"{file.stat().st_size / 1024:.0f} KiB", flush=True)


def _encoded(picture: Image.Image, file_format: str) -> bytes:
    file = BytesIO()
    picture.save(file, file_format, quality=_QUALITY)
    return file.getvalue()


if __name__ == "__main__":
    main()

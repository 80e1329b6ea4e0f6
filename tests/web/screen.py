"""What is on the screen, as pixels."""

import base64
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
from PIL import Image
from playwright.sync_api import Page

from testing.serving import Service


def shown(page: Page) -> np.ndarray:
    """What the stage shows at its natural size: the picture, and the overlay at its opacity; HWC, [0, 255]."""
    png = page.evaluate(
        """() => {
          const [picture, overlay] = [document.querySelector("#original"), document.querySelector("#overlay")];
          const canvas = document.createElement("canvas");
          Object.assign(canvas, {width: overlay.naturalWidth, height: overlay.naturalHeight});
          const context = canvas.getContext("2d");
          context.drawImage(picture, 0, 0, canvas.width, canvas.height);
          context.globalAlpha = Number(overlay.style.opacity);
          context.drawImage(overlay, 0, 0);
          return canvas.toDataURL("image/png").split(",")[1];
        }"""
    )
    return pixels(base64.b64decode(png))


def overlay(service: Service, path: Path, **fields: str) -> np.ndarray:
    """The overlay as the service blends it."""
    headers = {"Accept": "image/png"}
    with path.open("rb") as file:
        answer = httpx.post(f"{service.url}/v1/explain", files={"image": file}, data=fields, headers=headers)
    return pixels(answer.raise_for_status().content)


def pixels(png: bytes) -> np.ndarray:
    """HWC, [0, 255]."""
    return np.asarray(Image.open(BytesIO(png)).convert("RGB"), dtype=float)


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """The mean difference of two pictures; decoders of JPEG differ by a level or two."""
    assert one.shape == other.shape
    return float(abs(one - other).mean())

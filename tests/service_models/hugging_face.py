"""Small networks of the library transformers as its folders hold them, and the library's own answers about them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from app.imaging.tensors import normalise
from app.imaging.view import render_view
from service_models import load_network
from service_models.config import read_config
from service_models.hugging_face_files import with_what_its_files_say
from service_models.spec import Network, NetworkSpec, Preprocessing

CPU = torch.device("cpu")
SIDE = 64
LABELS = ("cat", "dog", "newt", "owl", "yak")
_TRANSFORMER = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
_PATCHES = {"image_size": SIDE, "patch_size": 8}
_STAGES = {"hidden_sizes": [8, 12, 16, 24], "depths": [1, 1, 1, 2]}
# Of each architecture: its configuration, its image processor as it is used with it, and the layers that are found.
ARCHITECTURES: dict[str, tuple[dict[str, Any], tuple[str, dict[str, Any]], dict[str, str]]] = {
    "ViT": (
        _TRANSFORMER | _PATCHES,
        ("ViTImageProcessor", {"size": {"height": SIDE, "width": SIDE}}),
        {"last_norm": "vit.layers.2.layernorm_before"},
    ),
    "DeiT": (
        _TRANSFORMER | _PATCHES,
        ("DeiTImageProcessor", {"size": {"height": 72, "width": 72}, "crop_size": SIDE}),
        {"last_norm": "deit.layers.2.layernorm_before"},
    ),
    "Swin": (
        {"image_size": SIDE, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
        ("ViTImageProcessor", {"size": SIDE, "resample": 3}),
        {"pre_gap": "swin.layernorm", "last_norm": "swin.encoder.layers.1.blocks.1.layernorm_after"},
    ),
    "ConvNext": (
        _STAGES,
        ("ConvNextImageProcessor", {"size": {"shortest_edge": SIDE}}),
        {
            "pre_gap": "convnext.encoder.stages.3",
            "last_conv": "convnext.encoder.stages.3.layers.1.dwconv",
            "last_norm": "convnext.encoder.stages.3.layers.1.layernorm",
        },
    ),
    "ResNet": (
        _STAGES | {"embedding_size": 8, "layer_type": "basic"},
        ("ConvNextImageProcessor", {"size": {"shortest_edge": SIDE}, "resample": 2}),
        {"pre_gap": "resnet.encoder.stages.3", "last_conv": "resnet.encoder.stages.3.layers.1.layer.1.convolution"},
    ),
    "Dinov2": (
        {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2} | _PATCHES,
        ("BitImageProcessor", {"size": {"shortest_edge": 72}, "crop_size": SIDE}),
        {"pre_gap": "dinov2.layernorm", "last_norm": "dinov2.encoder.layer.2.norm2"},
    ),
}


def enliven(model: nn.Module) -> None:
    """The library draws parameters so small that logits hardly differ."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 1.5 / parameter[0].numel() ** 0.5)
            elif "layer_scale" in name:
                parameter.fill_(0.5)
        model.eval()
        logits = model(torch.randn(8, 3, SIDE, SIDE)).logits
        classifier = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
        classifier.weight.div_(logits.std())


def load(folder: Path, *lines: str, place: str | None = None, mirror: str | None = None) -> Network:
    """Loads the entry of a configuration beside a folder."""
    config = folder.parent / f"{folder.name}.toml"
    config.write_text("\n".join(["[networks.mine]", f'architecture = "transformers:{place or folder.name}"', *lines]))
    return load_network(read_config(config)["mine"], CPU, mirror=mirror)


def change(file: Path, **fields: Any) -> None:
    """Sets keys of a JSON file; None takes them out."""
    content = json.loads(file.read_text()) | fields
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def own_model(hf: Any, folder: Path) -> nn.Module:
    """The network of a folder, as the library loads it."""
    model: nn.Module = hf.AutoModelForImageClassification.from_pretrained(folder)
    return model.eval().requires_grad_(requires_grad=False)


def own_pixels(hf: Any, folder: Path, picture: Image.Image) -> Tensor:
    """What the library's image processor makes of a picture, with Pillow."""
    kind = json.loads((folder / "preprocessor_config.json").read_text())["image_processor_type"]
    processor = getattr(hf, f"{kind}Pil").from_pretrained(folder)
    pixels: Tensor = processor(picture, return_tensors="pt")["pixel_values"]
    return pixels


def view_of(folder: Path) -> Preprocessing:
    """Of an entry that states nothing, without the network."""
    spec = NetworkSpec("mine", "transformers", str(folder), folder=folder.parent)
    view = with_what_its_files_say(spec).preprocessing
    assert view is not None
    return view


def input_of(view: Preprocessing, picture: Image.Image) -> Tensor:
    """What the service makes of a picture: (1, channels, height, width)."""
    return normalise(torch.from_numpy(np.array(render_view(picture, view, view.fit)))[None], view, CPU)

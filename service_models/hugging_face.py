"""Builds image classifiers of the library transformers from their configuration; no code that comes with one is run."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from service_models.errors import ArchitectureError
from service_models.files import printable
from service_models.spec import NetworkSpec

# What a configuration may say about how its network is run: kernels that would be downloaded, parts that would be
# fused, other files of parameters. The service decides it.
_NOT_TAKEN = (
    "_attn_implementation", "attn_implementation", "experts_implementation", "fusion_config", "transformers_weights",
    "torch_dtype", "dtype",
)  # fmt: skip


def transformers_library(name: str) -> ModuleType:
    """The library itself, imported when the first of its networks is asked for.

    Args:
        name: of the network, for the message.

    Raises:
        ArchitectureError: it is not installed, or cannot be imported.
    """
    try:
        library = importlib.import_module("transformers")
    except ImportError as error:
        raise ArchitectureError(
            f"{name}: needs the library transformers, which is not installed ({printable(error)}); "
            "docs/networks.md says how to install it"
        ) from error
    _be_quiet(library)
    return library


def build_transformers(spec: NetworkSpec) -> nn.Module:
    """Builds an image classifier on the CPU, in float32, with untrained parameters.

    Args:
        spec: as `with_what_its_files_say` completed it: its arguments are the whole configuration.

    Raises:
        ArchitectureError: the library has no such image classifier, or does not build it.
    """
    library = transformers_library(spec.name)
    arguments = {key: value for key, value in spec.arguments.items() if key not in _NOT_TAKEN}
    kind = arguments.pop("model_type", None)
    if kind not in library.CONFIG_MAPPING:
        raise ArchitectureError(f"{spec.name}: model_type: transformers {library.__version__} has no {printable(kind)}")
    try:
        config = library.CONFIG_MAPPING[kind].from_dict(arguments)
    # A configuration is checked by several libraries, each with errors of its own.
    except Exception as error:
        raise ArchitectureError(
            f"{spec.name}: transformers does not take its configuration: {printable(error, 500)}"
        ) from error
    if type(config) not in library.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        raise ArchitectureError(
            f"{spec.name}: model_type: {printable(kind)} is no image classifier in transformers {library.__version__}"
        )
    # Where it is missing, the library expects a list all the same.
    config.architectures = config.architectures or []
    try:
        model: nn.Module = library.AutoModelForImageClassification.from_config(
            config, trust_remote_code=False, dtype=torch.float32
        )
    except Exception as error:
        raise ArchitectureError(
            f"{spec.name}: transformers cannot build {printable(kind)}: {printable(error, 500)}"
        ) from error
    return model


def translated_by_transformers(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Gives parameters the names that the library has for them now; its files keep those of its first versions.

    Args:
        model: one of the library's.
        state: its parameters as a file names them.

    Returns:
        Parameters by the network's names. Those that the library does not know keep their names, and those of another
        shape their shape. None if the library cannot read them at all.
    """
    kind: Any = type(model)
    try:
        # It fills what is missing at random.
        with torch.random.fork_rng(devices=[]):
            loaded, report = kind.from_pretrained(
                None,
                config=model.config,
                state_dict=dict(state),
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    # Handed a foreign file it may stumble anywhere; the message about the file itself is better.
    except Exception:
        return None
    other_shapes = {name: torch.empty(shape, device="meta") for name, shape, _ in report["mismatched_keys"]}
    absent = set(report["missing_keys"]) | other_shapes.keys()
    found = {name: value for name, value in loaded.state_dict().items() if name not in absent}
    return found | other_shapes | {name: state[name] for name in report["unexpected_keys"] if name in state}


@cache
def _be_quiet(library: ModuleType) -> None:
    """No progress bars; errors go to the service's own log, and reports of what does not fit nowhere.

    The service says itself what does not fit, with the key that helps.
    """
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()
    library.utils.logging.disable_default_handler()
    library.utils.logging.enable_propagation()

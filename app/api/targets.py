"""From what a caller wrote (a class, a layer) to what the engine takes."""

import difflib
import re

from app.cam.errors import LayerError
from app.cam.questions import Target
from app.errors import InvalidParameter
from app.parameters import PredictParameters
from app.runtime.backend import Backend

_TARGET_TAKES = "predicted, least-likely, a class index or a class label"


def resolve_targets(tokens: list[str], labels: tuple[str, ...], most: int) -> list[Target]:
    """Finds the class that each token means: digits are an index, anything else a label.

    Raises:
        InvalidParameter: too many, or one that means no class or several.
    """
    if len(tokens) > most:
        takes = f"at most {most} targets"
        raise InvalidParameter(f"{len(tokens)} targets are too many", field="target", takes=takes)
    return [_resolve_target(token, labels) for token in tokens]


def _resolve_target(token: str, labels: tuple[str, ...]) -> Target:
    if token == "predicted":
        return "predicted"
    if token == "least-likely":
        return "least-likely"
    if re.fullmatch(r"-?[0-9]+", token):
        # A long number is out of range whatever it is; int() would refuse thousands of digits.
        if not token.startswith("-") and len(token) <= 18 and int(token) < len(labels):
            return int(token)
        takes = f"a class index from 0 to {len(labels) - 1}"
        raise InvalidParameter(f"there is no class {token[:40]}", field="target", takes=takes, value=token[:80])
    matches = [index for index, label in enumerate(labels) if label == token]
    matches = matches or [index for index, label in enumerate(labels) if label.casefold() == token.casefold()]
    if len(matches) == 1:
        return matches[0]
    if matches:
        indices = ", ".join(map(str, matches))
        message = f"several classes are called '{token}'"
        raise InvalidParameter(message, field="target", takes=f"one of the indices {indices}", value=token)
    close = difflib.get_close_matches(token[:80], labels, n=3)
    hint = f"; close labels: {', '.join(close)}" if close else ""
    message = f"there is no class called '{token[:80]}'{hint}"
    raise InvalidParameter(message, field="target", takes=_TARGET_TAKES, value=token[:80])


def resolve_layers(served: Backend, names: list[str] | None) -> dict[str, str]:
    """The layers' names as replied, with their module paths.

    Raises:
        InvalidParameter: a named layer that this network does not have, or two names of one module.
        LayerError: no module of the network.
    """
    layers: dict[str, str] = {}
    for name in names or [served.default_layer]:
        path = _resolve_layer(served, name)
        if path in layers.values():
            message = f"layer: '{name}' is the module '{path}', which stands already"
            raise InvalidParameter(message, field="layer", takes="each layer once", value=name)
        layers[name] = path
    return layers


def _resolve_layer(served: Backend, name: str) -> str:
    layers = served.network.layers
    if name in layers:
        return layers[name]
    if name in {"pre_gap", "last_conv", "last_norm"}:
        takes = f"{', '.join(layers)} or a module path"
        message = f"{served.network.name} has no layer '{name}'"
        raise InvalidParameter(message, field="layer", takes=takes, value=name)
    if name not in served.module_paths:
        raise LayerError(f"the network has no module '{name}'")
    return name


def check_top_k(parameters: PredictParameters, served: Backend) -> None:
    """Raises InvalidParameter where more predictions are asked for than there are classes."""
    classes = len(served.network.labels)
    # The default is what is listed of a network that has so many.
    if "top_k" in parameters.model_fields_set and parameters.top_k > classes:
        takes = f"a whole number from 1 to {classes}"
        message = f"top_k: {served.network.name} has {classes} classes"
        raise InvalidParameter(message, field="top_k", takes=takes, value=parameters.top_k)

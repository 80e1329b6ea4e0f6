"""From what a caller wrote (a class, a layer) to what the engine takes."""

import re

from app.cam.errors import LayerError, TargetError
from app.cam.questions import Target
from app.errors import InvalidParameter
from app.parameters import PredictParameters
from app.runtime.backend import Backend
from service_models import LabelIndex
from service_models.layer_paths import module_of

# Of a text that is no label; a longer one is not looked at, and need not be quoted.
_MOST_QUOTED = 80


def resolve_targets(tokens: list[str], labels: LabelIndex, most: int) -> list[Target]:
    """Finds the class that each token means: digits are an index, anything else a label.

    Raises:
        InvalidParameter: too many, or one that means no class or several.
    """
    if len(tokens) > most:
        expected = f"at most {most} targets"
        raise InvalidParameter(f"{len(tokens)} targets are too many", field="target", expected=expected)
    return [_resolve_target(token, labels) for token in tokens]


def _resolve_target(token: str, labels: LabelIndex) -> Target:
    if token == "predicted":
        return "predicted"
    if token == "least-likely":
        return "least-likely"
    if re.fullmatch(r"-?[0-9]+", token):
        # A long number is out of range whatever it is; int() would refuse thousands of digits.
        if not token.startswith("-") and len(token) <= 18 and int(token) < len(labels):
            return int(token)
        expected = f"a class index from 0 to {len(labels) - 1}"
        raise InvalidParameter(f"there is no class {token[:40]}", field="target", expected=expected, value=token[:80])
    matches = labels.find(token)
    if len(matches) == 1:
        return matches[0]
    if matches:
        indices = ", ".join(map(str, matches))
        message = f"several classes are called '{token}'"
        raise InvalidParameter(message, field="target", expected=f"one of the indices {indices}", value=token)
    close = labels.close_to(token)
    hint = f"; close labels: {', '.join(close)}" if close else ""
    message = f"there is no class called '{token[:_MOST_QUOTED]}'{hint}"
    raise InvalidParameter(message, field="target", expected=TargetError.expected, value=token[:_MOST_QUOTED])


def resolve_layers(backend: Backend, names: list[str] | None) -> dict[str, str]:
    """The layers' names as replied, with their module paths.

    Raises:
        InvalidParameter: a named layer that this network does not have, or two names of one module.
        LayerError: no module of the network.
    """
    layers: dict[str, str] = {}
    for name in names or [backend.default_layer]:
        path = _resolve_layer(backend, name)
        if path in layers.values():
            message = f"field 'layer': '{name}' is the module '{path}', which is given already"
            raise InvalidParameter(message, field="layer", expected="each layer once", value=name)
        layers[name] = path
    return layers


def _resolve_layer(backend: Backend, name: str) -> str:
    layers = backend.network.layers
    if name in layers:
        return layers[name]
    if name in {"pre_gap", "last_conv", "last_norm"}:
        expected = f"{', '.join(layers)} or a module path"
        message = f"{backend.network.name} has no layer '{name}'"
        raise InvalidParameter(message, field="layer", expected=expected, value=name)
    if module_of(name) not in backend.module_paths:
        # In a query a plus means a space, and no module has one in its path.
        hint = "; in a query, write + as %2B" if " " in name else ""
        raise LayerError(f"the network has no module '{module_of(name)}'{hint}")
    return name


def check_top_k(parameters: PredictParameters, backend: Backend) -> None:
    """Raises InvalidParameter where more predictions are asked for than there are classes."""
    classes = len(backend.network.labels)
    # The default is what is listed of a network that has so many.
    if "top_k" in parameters.model_fields_set and parameters.top_k > classes:
        expected = f"a whole number from 1 to {classes}"
        message = f"field 'top_k': {backend.network.name} has only {classes} classes"
        raise InvalidParameter(message, field="top_k", expected=expected, value=parameters.top_k)

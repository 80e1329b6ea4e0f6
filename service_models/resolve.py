"""From the name of a network to its specification: configuration, catalogue, torchvision, then timm."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import NoReturn

from service_models.catalogue import CATALOGUE
from service_models.errors import UnknownNetwork
from service_models.files import printable
from service_models.libraries import Library, architectures, weights_names
from service_models.spec import Hub, NetworkSpec

NAME_PATTERN = re.compile(r"[A-Za-z0-9_.-]{1,200}")


def resolve(name: str, config: Mapping[str, NetworkSpec] | None = None) -> NetworkSpec:
    """Finds the network that a name means.

    Args:
        name: a name of the configuration or the catalogue, a torchvision classification network, or a timm
            network with or without its weight tag (`convnext_tiny.fb_in1k`).
        config: the networks of the configuration file, which win over the catalogue.

    Raises:
        UnknownNetwork: nothing has this name; the message lists close ones.
    """
    config = config or {}
    if not NAME_PATTERN.fullmatch(name):
        raise UnknownNetwork(
            f"'{printable(name)}' is not a network name: letters, digits, '_', '.' and '-' only, and at most 200"
        )
    for known in (config, CATALOGUE):
        if name in known:
            return known[name]
    if name in architectures("torchvision"):
        return NetworkSpec(name=name, library="torchvision", architecture=name)
    return _timm_spec(name) or _refuse(name, (*config, *CATALOGUE))


def library_spec(name: str, library: str, architecture: str) -> NetworkSpec:
    """The network `architecture` of one library, under the name that requests use.

    Args:
        name: the name that requests use.
        library: "torchvision" or "timm".
        architecture: the library's name for it; for timm, a weight tag may follow after a dot.

    Raises:
        UnknownNetwork: there is no such library, or the library has no such network.
    """
    if library == "torchvision":
        if architecture not in architectures("torchvision"):
            _refuse(architecture, (), only="torchvision")
        return NetworkSpec(name=name, library="torchvision", architecture=architecture)
    if library == "timm":
        spec = _timm_spec(architecture)
        if spec is None:
            _refuse(architecture, (), only="timm")
        return replace(spec, name=name)
    raise UnknownNetwork(f"{library!r} is not a library of networks: torchvision or timm")


def _timm_spec(name: str) -> NetworkSpec | None:
    """The timm network `architecture` or `architecture.tag`, None where there is none."""
    architecture, _, tag = name.partition(".")
    if architecture not in architectures("timm"):
        return None
    if tag and tag not in weights_names("timm", architecture):
        return None
    return NetworkSpec(name=name, library="timm", architecture=architecture, weights=Hub(tag or None))


def _refuse(name: str, own: tuple[str, ...], only: Library | None = None) -> NoReturn:
    """Raises `UnknownNetwork` with the names that are close to `name`."""
    tagged: tuple[str, ...] = ()
    architecture = name.partition(".")[0]
    if only != "torchvision" and architecture in architectures("timm"):
        tagged = tuple(f"{architecture}.{tag}" for tag in weights_names("timm", architecture))
    libraries = [architectures(lib) for lib in ("torchvision", "timm") if only in (None, lib)]
    candidates = dict.fromkeys((*own, *tagged, *(entry for known in libraries for entry in known)))
    close = difflib.get_close_matches(name, candidates, n=5, cutoff=0.6)
    where = f"{only} has no network" if only else "there is no network"
    hint = f"; close names: {', '.join(close)}" if close else ""
    raise UnknownNetwork(f"{where} {name!r}{hint}")

"""Networks: which there are, where their parameters come from, how pictures enter, what the layers are."""

from service_models.catalogue import CATALOGUE
from service_models.config import find_networks, read_config
from service_models.errors import (
    ArchitectureError,
    ConfigError,
    HubUnreachable,
    LayerError,
    NetworkError,
    UnknownNetwork,
    WeightsError,
)
from service_models.grid import Grid, grid_of, spatial_grid
from service_models.layers import infer_layers
from service_models.lively import make_lively
from service_models.loading import load_network
from service_models.preprocessing import library_preprocessing
from service_models.resolve import resolve
from service_models.spec import (
    Checkpoint,
    Embedded,
    Hub,
    Network,
    NetworkSpec,
    Preprocessing,
    Random,
    WeightsSource,
)

__all__ = [
    "CATALOGUE",
    "ArchitectureError",
    "Checkpoint",
    "ConfigError",
    "Embedded",
    "Grid",
    "Hub",
    "HubUnreachable",
    "LayerError",
    "Network",
    "NetworkError",
    "NetworkSpec",
    "Preprocessing",
    "Random",
    "UnknownNetwork",
    "WeightsError",
    "WeightsSource",
    "find_networks",
    "grid_of",
    "infer_layers",
    "library_preprocessing",
    "load_network",
    "make_lively",
    "read_config",
    "resolve",
    "spatial_grid",
]

"""Networks: which there are, where their parameters come from, how pictures enter, what the layers are."""

from service_models.calibration import calibrate_random_weights
from service_models.catalogue import CATALOGUE
from service_models.config import find_networks
from service_models.errors import NetworkError
from service_models.labels import LabelIndex
from service_models.loading import load_network
from service_models.resolve import resolve
from service_models.scores import SCORE_FUNCTIONS, SIGMOID, SOFTMAX, ScoreFunction, ScoreName
from service_models.spec import Network, NetworkSpec, Preprocessing, Random

__all__ = [
    "CATALOGUE",
    "SCORE_FUNCTIONS",
    "SIGMOID",
    "SOFTMAX",
    "LabelIndex",
    "Network",
    "NetworkError",
    "NetworkSpec",
    "Preprocessing",
    "Random",
    "ScoreFunction",
    "ScoreName",
    "calibrate_random_weights",
    "find_networks",
    "load_network",
    "resolve",
]

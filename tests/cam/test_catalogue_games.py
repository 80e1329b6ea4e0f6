"""The methods that mask and play, at every named layer of every network of the catalogue, with every utility."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from app.cam.engine import explain
from app.cam.errors import MethodError
from app.cam.methods import METHODS
from app.cam.questions import Explanation, Question
from app.cam.split import SplitNetwork
from app.cam.splitting import split_network
from app.cam.utilities import UTILITIES
from app.cam.work import SamplingOptions
from service_models import CATALOGUE, Network, Preprocessing, Random, load_network
from testing.photographs import photographs

# Small, for the largest networks' sake, and not square; every grid still has too many players to enumerate.
VIEW = Preprocessing(input_size=(96, 160), resize_size=160)
# For what passes the whole network once a channel.
SMALL_VIEW = Preprocessing(input_size=(64, 96), resize_size=96)
LAYERS = [(name, layer) for name, spec in CATALOGUE.items() for layer in spec.layers or {}]
# A pass for each channel is affordable here.
CHEAP = ("tf_efficientnet_lite0", "resnet18", "mobilenet_v2")
# How much a logit may change when the activations of a layer become zero. Random networks go up to thousands, where no
# quadrature meets the one step on the way that decides the class.
MOST_GAIN = 15.0
PERMUTATIONS = {name: 2 * number for number, name in enumerate(UTILITIES, 1)}


class CatalogueLayer(NamedTuple):
    """A layer, and what the network makes of a photograph there.

    Attributes:
        split: the network.
        image: the photograph.
        way: logits of the activations times 0, 1/16, 2/16, ..., 1, float64.
    """

    split: SplitNetwork
    image: Tensor
    way: Tensor

    def gains(self, utility: str, target: int) -> Tensor:
        """What U gains on each part of the straight way from zero to the activations."""
        return UTILITIES[utility].of(self.way, torch.full((len(self.way),), target)).diff()

    def explained(self, method: str, *utilities: str) -> list[Explanation]:
        questions = [
            Question(0, METHODS[method], UTILITIES[name], sampling=SamplingOptions(permutations=PERMUTATIONS[name]))
            for name in utilities or UTILITIES
        ]
        return list(explain(self.split, self.image, questions, metrics=False).explanations)


@contextmanager
def on_one_thread() -> Iterator[None]:
    """For small steps, in which threads wait for each other more than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def places(request: pytest.FixtureRequest) -> Iterator[dict[str, CatalogueLayer]]:
    """The named layers of one network, which is gone before the next is loaded: the largest takes 800 MB."""
    found = places_of(request.param, VIEW)
    yield found
    found.clear()
    gc.collect()


@pytest.fixture(scope="module")
def small_places(request: pytest.FixtureRequest) -> dict[str, CatalogueLayer]:
    """Those of a network that is not large, on a small view."""
    return places_of(request.param, SMALL_VIEW)


def places_of(name: str, view: Preprocessing) -> dict[str, CatalogueLayer]:
    spec = replace(CATALOGUE[name], weights=Random(0), preprocessing=view)
    with on_one_thread():
        return places_in(load_network(spec, torch.device("cpu"), None), view)


def places_in(network: Network, view: Preprocessing) -> dict[str, CatalogueLayer]:
    image = photographs(view, ("chelsea.png",))
    places = {}
    for layer in CATALOGUE[network.name].layers or {}:
        split = split_network(network.model, network.layers[layer], view.input_size)
        places[layer] = CatalogueLayer(split, image, logits_on_the_way(split, image))
    gain = max(float((place.way[-1] - place.way[0]).abs().max()) for place in places.values())
    factor = min(1.0, MOST_GAIN / gain)
    classifier = [module for module in network.model.modules() if isinstance(module, nn.Linear)][-1]
    for parameter in classifier.parameters():
        parameter.mul_(factor)
    return {layer: place._replace(way=factor * place.way) for layer, place in places.items()}


def logits_on_the_way(split: SplitNetwork, image: Tensor) -> Tensor:
    state = split.trunk(image).take(torch.zeros(17, dtype=torch.int64))
    scales = torch.linspace(0, 1, 17)[:, None, None, None]
    with torch.no_grad():
        return split.head(state.with_activations(scales * state.activations)).double()


def assert_sound(place: CatalogueLayer, explanation: Explanation) -> None:
    grid = place.split.grid
    assert explanation.attribution.shape == (grid.height, grid.width)
    assert explanation.attribution.isfinite().all()
    assert explanation.attribution.std() > 0
    assert explanation.heatmap.shape == place.image.shape[2:]
    assert explanation.heatmap.min() >= 0
    assert explanation.heatmap.max() <= 1


at_every_layer = pytest.mark.parametrize(("places", "layer"), LAYERS, indirect=["places"], scope="module")


@at_every_layer
@pytest.mark.parametrize("method", ["ablationcam", "fakecam"])
def test_maps_are_finite_and_lie_on_the_grid(places: dict[str, CatalogueLayer], layer: str, method: str) -> None:
    for explanation in places[layer].explained(method):
        assert_sound(places[layer], explanation)
        assert explanation.layers[0].available is None


@at_every_layer
@pytest.mark.parametrize(("method", "tolerance"), [("shapley-sampling", 1e-5), ("aumann-shapley", 0.02)])
def test_values_sum_to_the_gain_of_the_utility(
    places: dict[str, CatalogueLayer], layer: str, method: str, tolerance: float
) -> None:
    """Relative to all that the utility gains and loses on the straight way from zero."""
    for explanation in places[layer].explained(method):
        assert_sound(places[layer], explanation)
        gains = places[layer].gains(explanation.question.utility.name, explanation.target_class)
        assert explanation.layers[0].available == pytest.approx(gains.sum().item(), abs=1e-4 * gains.abs().sum().item())
        assert abs(explanation.attribution.sum() - gains.sum()) <= tolerance * gains.abs().sum()


@at_every_layer
def test_contributions_are_found_unless_attention_follows(places: dict[str, CatalogueLayer], layer: str) -> None:
    place = places[layer]
    if layer == "last_norm":
        with pytest.raises(MethodError, match="no rule for matmul"):
            place.explained("liftcam")
        return
    for explanation in place.explained("liftcam"):
        assert_sound(place, explanation)


@pytest.mark.parametrize(("small_places", "layer"), [at for at in LAYERS if at[0] in CHEAP], indirect=["small_places"])
def test_scorecam_is_finite_and_lies_on_the_grid(small_places: dict[str, CatalogueLayer], layer: str) -> None:
    place = small_places[layer]
    with on_one_thread():
        (explanation,) = place.explained("scorecam", "rest")
    assert_sound(place, explanation)
    assert 1 < explanation.forward_passes <= 1 + place.split.grid.channels

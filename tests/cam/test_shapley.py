"""Sampled, enumerated and integrated values of the game, against each other and against captum."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from captum.attr import IntegratedGradients, ShapleyValues
from torch import Tensor, nn

from app.cam.coalitions import Coalitions
from app.cam.engine import explain
from app.cam.game import Game, GameRow, PassCounter
from app.cam.heads import HeadStructure
from app.cam.methods import METHODS, Estimate, Evidence
from app.cam.questions import Question
from app.cam.sampling import enumerate_values, sample_values
from app.cam.split import SplitNetwork
from app.cam.splitting import split_network
from app.cam.state import SplitState
from app.cam.utilities import UTILITIES
from app.cam.work import SamplingOptions
from service_models import CATALOGUE, load_network, resolve
from service_models.preprocessing import library_preprocessing
from testing.photographs import PHOTOGRAPHS, photographs
from tests.cam.games import PoolAndClassify, Quadratic, Tiny, linear_head, shapley_values, smooth_head, split_tiny

CLASS = 1
REST, PRE = UTILITIES["rest"], UTILITIES["pre-softmax"]


def split_grid(head: nn.Module, size: tuple[int, int], seed: int = 0) -> tuple[SplitNetwork, Tensor]:
    """A tiny network in float64 with a grid of any size, and one image."""
    torch.manual_seed(seed)
    model = Tiny(head).double().eval().requires_grad_(False)
    return split_network(model, "features", size), torch.randn(1, 3, *size, dtype=torch.float64)


def curved_head(players: int) -> nn.Module:
    """Flattening and two layers: every player interacts with every other."""
    return nn.Sequential(nn.Flatten(), nn.Linear(4 * players, 12), nn.Tanh(), nn.Linear(12, 3))


def additive_head() -> nn.Module:
    """Batch norm, a kink, pooling and a linear layer: positions meet in the mean only."""
    norm = nn.BatchNorm2d(4)
    nn.init.normal_(norm.running_mean)
    return nn.Sequential(norm, nn.ReLU6(), PoolAndClassify())


def game_of(split: SplitNetwork, image: Tensor, *rows: GameRow) -> Game:
    states = split.trunk(image)
    game = Game(split, image, states, rows, torch.zeros(len(rows), dtype=torch.float64), PassCounter())
    return replace(game, values=game.utility_of(list(range(len(game.rows))), split.head(game.row_states())))


def sampled(game: Game) -> dict[int, tuple[Tensor, Tensor]]:
    numbers = list(range(len(game.rows)))
    return sample_values(game, Coalitions(game, game.state_of(0), numbers), numbers)


def utility_of(name: str) -> Callable[[Tensor], Tensor]:
    return lambda logits: UTILITIES[name].of(logits, torch.full((len(logits),), CLASS))


@pytest.mark.parametrize("utility", UTILITIES)
@pytest.mark.parametrize("head", [Quadratic(9), smooth_head(), linear_head(), additive_head(), PoolAndClassify()])
def test_few_players_are_enumerated_exactly(head: nn.Module, utility: str) -> None:
    split, states = split_tiny(head)
    state = states.take(torch.tensor([0]))
    expected, total = shapley_values(split, state, utility_of(utility))
    row = GameRow(0, CLASS, UTILITIES[utility])
    game = Game(split, torch.zeros(1, 3, 3, 3), state, (row,), torch.zeros(1).double(), PassCounter())
    found = METHODS["shapley-sampling"].attribute(Evidence(state.activations, game=game))
    assert isinstance(found, Estimate)
    torch.testing.assert_close(found.attribution[0], expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.attribution.sum(), total, rtol=1e-9, atol=1e-12)
    assert torch.count_nonzero(found.standard_error) == 0


def test_enumeration_equals_captums_shapley_values() -> None:
    """On six players, of which captum walks all 720 permutations."""
    split, image = split_grid(curved_head(6), (2, 3))
    state = split.trunk(image)

    def worth(activations: Tensor) -> Tensor:
        return utility_of("rest")(split.head(SplitState(activations, ())))

    players = torch.arange(6).reshape(1, 1, 2, 3).expand_as(state.activations).contiguous()
    expected = ShapleyValues(worth).attribute(state.activations, feature_mask=players, perturbations_per_eval=64)
    game = game_of(split, image, GameRow(0, CLASS, REST))
    values, _ = enumerate_values(game, Coalitions(game, state, [0]), [0])[0]
    # captum answers in single precision.
    torch.testing.assert_close(values.float(), expected[0, 0].flatten(), rtol=1e-5, atol=1e-7)


def test_sampling_is_within_three_standard_errors_of_enumeration_on_ten_players() -> None:
    split, image = split_grid(curved_head(10), (2, 5))
    rows = [GameRow(0, target, utility, seed=3) for target in range(3) for utility in UTILITIES.values()]
    game = game_of(split, image, *rows)
    exact = enumerate_values(game, Coalitions(game, game.state_of(0), [0]), list(range(len(rows))))
    for number, (values, errors) in sampled(game).items():
        assert (errors > 0).all()
        assert ((values - exact[number][0]).abs() <= 3 * errors).all()
        assert errors.max() < 0.1 * exact[number][0].abs().max()


def test_the_error_falls_as_one_over_the_root_of_the_permutations_and_is_what_it_says() -> None:
    split, image = split_grid(curved_head(10), (2, 5))
    game = game_of(split, image, GameRow(0, CLASS, REST))
    exact, _ = enumerate_values(game, Coalitions(game, game.state_of(0), [0]), [0])[0]
    roots, calibration = [], []
    counts = (8, 32, 128, 512)
    for permutations in counts:
        rows = [GameRow(0, CLASS, REST, seed, SamplingOptions(permutations)) for seed in range(40)]
        found = sampled(game_of(split, image, *rows)).values()
        off = torch.stack([values - exact for values, _ in found])
        roots.append(off.pow(2).mean().sqrt().item())
        calibration.append((off.pow(2).mean() / torch.stack([errors for _, errors in found]).pow(2).mean()).item())
    for larger, smaller in pairwise(roots):
        assert larger / smaller == pytest.approx(2, rel=0.25)
    assert roots[0] / roots[-1] == pytest.approx(math.sqrt(counts[-1] / counts[0]), rel=0.2)
    for ratio in calibration:
        assert ratio == pytest.approx(1, abs=0.35)


def test_sampling_a_linear_head_is_hirescam_without_error() -> None:
    split, image = split_grid(nn.Sequential(nn.Flatten(), nn.Linear(4 * 16, 3)), (4, 4))
    questions = [Question(0, METHODS[name], PRE, CLASS) for name in ("shapley-sampling", "hirescam")]
    found, hirescam = explain(split, image, questions, metrics=False).explanations
    torch.testing.assert_close(found.attribution, hirescam.attribution, rtol=1e-9, atol=1e-12)
    errors = found.layers[0].standard_error
    assert errors is not None
    assert errors.max() < 1e-7
    assert hirescam.layers[0].standard_error is None


@pytest.mark.parametrize("head", [additive_head(), PoolAndClassify()])
def test_adding_up_players_equals_running_the_head_on_each_coalition(head: nn.Module) -> None:
    split, image = split_grid(head, (4, 4))
    assert split.structure.additive
    rows = [GameRow(0, target, utility, seed=1) for target in range(3) for utility in UTILITIES.values()]
    short = sampled(game_of(split, image, *rows))
    split = split.with_structure(HeadStructure())
    for number, (values, errors) in sampled(game_of(split, image, *rows)).items():
        torch.testing.assert_close(short[number][0], values, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(short[number][1], errors, rtol=1e-6, atol=1e-9)


def test_a_head_that_turns_out_not_to_add_up_is_run_on_each_coalition() -> None:
    """The experiment that found the head additive may be wrong; each image is checked again."""
    split, image = split_grid(curved_head(16), (4, 4))
    assert not split.structure.additive
    expected = sampled(game_of(split, image, GameRow(0, CLASS, REST)))[0][0]
    split = split.with_structure(HeadStructure(additive=True))
    torch.testing.assert_close(sampled(game_of(split, image, GameRow(0, CLASS, REST)))[0][0], expected)


def test_each_permutation_is_efficient() -> None:
    split, image = split_grid(curved_head(16), (4, 4))
    game = game_of(split, image, GameRow(0, CLASS, REST, sampling=SamplingOptions(2)))
    values, errors = sampled(game)[0]
    available = (
        game.values[0] - game.utility_of(list(range(len(game.rows))), split.empty_coalition_logits(game.state_of(0)))[0]
    )
    torch.testing.assert_close(values.sum(), available, rtol=1e-10, atol=1e-12)
    assert errors.isnan().all()


def test_a_seed_draws_the_same_and_another_draws_anew() -> None:
    split, image = split_grid(curved_head(16), (4, 4))
    rows = [GameRow(0, CLASS, REST, seed) for seed in (5, 5, 6)]
    found = sampled(game_of(split, image, *rows))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=0)
    assert (found[0][0] - found[2][0]).abs().max() > 1e-4
    torch.testing.assert_close(sampled(game_of(split, image, rows[2]))[0][0], found[2][0])


def test_sampling_stops_when_the_tolerance_is_met_whatever_is_asked_beside_it() -> None:
    split, image = split_grid(curved_head(16), (4, 4))
    calls: list[int] = []

    class Counted(Coalitions):
        def logits(self, coalitions: Tensor) -> Tensor:
            calls.append(len(coalitions))
            return super().logits(coalitions)

    def drawn(*options: SamplingOptions) -> dict[int, tuple[Tensor, Tensor]]:
        calls.clear()
        rows = [GameRow(0, CLASS, REST, seed=2, sampling=sampling) for sampling in options]
        game = game_of(split, image, *rows)
        numbers = list(range(len(rows)))
        return sample_values(game, Counted(game, game.state_of(0), numbers), numbers)

    everything = drawn(SamplingOptions(4096))
    all_calls = len(calls)
    loose = everything[0][1].max().item() * 3
    alone = drawn(SamplingOptions(4096, tolerance=loose))
    assert 0 < len(calls) < all_calls / 4
    assert alone[0][1].max() <= loose
    assert alone[0][1].max() > everything[0][1].max()
    beside = drawn(SamplingOptions(4096), SamplingOptions(4096, tolerance=loose), SamplingOptions(64))
    torch.testing.assert_close(beside[1][0], alone[0][0], rtol=0, atol=0)
    torch.testing.assert_close(beside[0][0], everything[0][0], rtol=0, atol=0)
    torch.testing.assert_close(beside[2][0], drawn(SamplingOptions(64))[0][0], rtol=0, atol=0)


def test_aumann_shapley_equals_the_shapley_values_of_a_quadratic_head() -> None:
    """The gradient of a quadratic is linear along the way: one node in the middle is exact."""
    split, states = split_tiny(Quadratic(9))
    state = states.take(torch.tensor([0]))
    expected, _ = shapley_values(split, state, utility_of("pre-softmax"))
    row = GameRow(0, CLASS, PRE, sampling=SamplingOptions(nodes=1))
    game = Game(split, torch.zeros(1, 3, 3, 3), state, (row,), torch.zeros(1).double(), PassCounter())
    found = METHODS["aumann-shapley"].attribute(Evidence(state.activations, game=game))
    torch.testing.assert_close(found[0], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("nodes", [1, 3, 8])
@pytest.mark.parametrize("head", [smooth_head(), curved_head(9), PoolAndClassify(), additive_head()])
def test_aumann_shapley_equals_captums_integrated_gradients(head: nn.Module, nodes: int) -> None:
    split, states = split_tiny(head)
    rows = tuple(
        GameRow(image, target, utility, sampling=SamplingOptions(nodes=nodes))
        for image in range(2)
        for target in range(3)
        for utility in UTILITIES.values()
    )
    game = Game(split, torch.zeros(2, 3, 3, 3), states, rows, torch.zeros(len(rows)).double(), PassCounter())
    found = METHODS["aumann-shapley"].attribute(Evidence(game.row_states().activations, game=game))
    for number, row in enumerate(rows):

        def worth(activations: Tensor, row: GameRow = row) -> Tensor:
            logits = split.head(SplitState(activations, ()))
            return row.utility.of(logits, torch.full((len(logits),), row.target_class))

        activations = states.activations[row.image_index : row.image_index + 1]
        expected = IntegratedGradients(worth).attribute(activations, n_steps=nodes, method="gausslegendre")
        torch.testing.assert_close(found[number], expected[0].sum(dim=0), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("layer", ["pre_gap", "last_conv"])
def test_aumann_shapley_accounts_for_the_utility_on_photographs(layer: str) -> None:
    """Median gap under 1%, each under 2%; and nearly the Shapley values."""
    name = "tf_efficientnet_lite0"
    network = load_network(resolve(name), torch.device("cpu"), None)
    split = split_network(network.model, network.layers[layer], (224, 224))
    images = photographs(library_preprocessing(CATALOGUE[name]))
    questions = [Question(n, METHODS["aumann-shapley"], REST, reference=True) for n in range(len(PHOTOGRAPHS))]
    found = explain(split, images, questions, metrics=False).explanations
    gaps = []
    for explanation in found:
        assert explanation.layers[0].available is not None
        gaps.append(abs(explanation.attribution.sum().item() / explanation.layers[0].available - 1))
        assert explanation.fidelity is not None
        assert explanation.fidelity.pearson > 0.99
        assert explanation.fidelity.efficiency_gap == pytest.approx(gaps[-1], abs=1e-4)
    assert len(gaps) >= 12
    assert sorted(gaps)[len(gaps) // 2] < 0.01
    assert max(gaps) < 0.02

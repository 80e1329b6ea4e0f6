"""Networks of the operator's own code: what they return becomes logits, explained as plain PyTorch has it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from app.cam.engine import explain
from app.cam.methods import METHODS
from app.cam.questions import Question
from app.cam.split import GraphSplit
from app.cam.splitting import split_network
from app.cam.utilities import utilities_of
from service_models.errors import ConfigError
from service_models.spec import Network
from tests.cam.plain import PLAIN, attribution_of, head_of, plain


@pytest.mark.parametrize(
    ("ending", "lines"),
    [
        ("dict", ['output = "scores.logits"']),
        ("tuple", ['output = "1"']),
        ("log_softmax", ['output_is = "log-probabilities"']),
        ("softmax", ['output_is = "probabilities"']),
        ("sigmoid", ['output_is = "probabilities"', 'scores = "sigmoid"']),
        ("logsigmoid", ['output_is = "log-probabilities"', 'scores = "sigmoid"']),
    ],
)
def test_what_forward_returns_is_turned_into_logits(
    load_own: Callable[..., Network], ending: str, lines: list[str]
) -> None:
    own, network = load_own(), load_own(f'arguments = {{ ending = "{ending}" }}', *lines)
    pictures = torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    expected = own.model.double()(pictures.double())
    if "softmax" in ending:
        expected = expected.log_softmax(1)
    torch.testing.assert_close(network.model.double()(pictures.double()), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("utility", ["rest", "pre-softmax", "post-softmax", "log-softmax"])
@pytest.mark.parametrize(
    ("ending", "lines"),
    [
        ("softmax", ['output_is = "probabilities"']),
        ("sigmoid", ['output_is = "probabilities"', 'scores = "sigmoid"']),
        ("dict", ['output = "scores.logits"']),
    ],
)
@pytest.mark.parametrize("layer", ["pre_gap", "last_conv"])
def test_explanations_equal_those_of_plain_pytorch(
    load_own: Callable[..., Network], ending: str, lines: list[str], utility: str, layer: str
) -> None:
    """By hooks and autograd on the module as its author wrote it, whose own probabilities are taken."""
    network = load_own(f'arguments = {{ ending = "{ending}" }}', *lines)
    own = load_own().model.double()
    image = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    split = split_network(network.model.double(), network.layers[layer], (48, 48))
    assert isinstance(split, GraphSplit)  # each coalition costs a head, not a whole network
    questions = [
        Question(0, METHODS[name], utilities_of(network.scores)[utility], 2) for name in ("hirescam", "liftcam")
    ]
    found, lift = explain(split, image, questions, metrics=False).explanations

    def logits_of(images: Tensor) -> Tensor:
        return own(images).log_softmax(1) if ending == "softmax" else own(images)

    module, u = own.get_submodule(network.layers[layer]), PLAIN[network.scores.name][utility]
    expected = attribution_of("hirescam", plain(logits_of, module, image, 2, u))
    torch.testing.assert_close(found.attribution, expected, rtol=1e-6, atol=1e-9)
    # Contributions to all channels sum to what the utility loses without them.
    activations, head = head_of(logits_of, module, image)
    with torch.no_grad():
        whole, empty = u(head(activations), 2), u(head(torch.zeros_like(activations)), 2)
    weights = lift_weights(split, image, questions[1])
    torch.testing.assert_close(weights.sum(), (whole - empty)[0], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(lift.attribution, (weights.view(-1, 1, 1) * activations[0]).sum(0), rtol=1e-6, atol=1e-8)


def lift_weights(split: GraphSplit, image: Tensor, question: Question) -> Tensor:
    utility = question.utility
    return split.lift_contributions(split.trunk(image), lambda logits: utility.of(logits, torch.tensor([2])))[0]


@pytest.mark.parametrize(
    ("ending", "scores", "words"),
    [
        ("softmax", "softmax", 'each row sums to 1.*state output_is = "probabilities"'),
        ("log_softmax", "softmax", 'exponentials of each row sum to 1.*state output_is = "log-probabilities"'),
        ("sigmoid", "sigmoid", 'all lie within 0 and 1.*state output_is = "probabilities", or'),
        ("sigmoid", "softmax", 'all lie within 0 and 1.*state output_is = "probabilities" and scores = "sigmoid", or'),
    ],
)
def test_outputs_that_are_no_logits_are_refused_until_it_is_said(
    load_own: Callable[..., Network], ending: str, scores: str, words: str
) -> None:
    lines = [f'arguments = {{ ending = "{ending}" }}', f'scores = "{scores}"']
    with pytest.raises(ConfigError, match=words):
        load_own(*lines)
    assert load_own(*lines, 'output_is = "logits"').labels == tuple("01234")


@pytest.mark.parametrize(
    ("ending", "scores", "stated", "words"),
    [
        ("sigmoid", "softmax", "probabilities", 'a softmax sum to 1, and these to .*state scores = "sigmoid"'),
        ("logsigmoid", "softmax", "log-probabilities", 'a softmax sum to 1, and these to .*state scores = "sigmoid"'),
        ("nothing", "softmax", "probabilities", 'lie between 0 and 1, and these between .*output_is = "logits"'),
        ("nothing", "sigmoid", "probabilities", 'lie between 0 and 1, and these between .*output_is = "logits"'),
        ("log_softmax", "sigmoid", "probabilities", "lie between 0 and 1, and these between"),
        ("nothing", "sigmoid", "log-probabilities", "lie between minus infinity and 0, and these between"),
    ],
)
def test_outputs_are_held_to_what_the_entry_says_they_are(
    load_own: Callable[..., Network], ending: str, scores: str, stated: str, words: str
) -> None:
    lines = [f'arguments = {{ ending = "{ending}" }}', f'scores = "{scores}"', f'output_is = "{stated}"']
    with pytest.raises(ConfigError, match=words):
        load_own(*lines)


def test_a_forward_of_the_object_is_converted_as_that_of_a_class(
    load_own: Callable[..., Network], tmp_path: Path
) -> None:
    (tmp_path / "patched.py").write_text(
        "from net import build\n\n\ndef make():\n    net = build()\n"
        "    inner = net.forward\n    net.forward = lambda x: inner(x).softmax(1)\n    return net\n"
    )
    network = load_own('output_is = "probabilities"', architecture="python:patched.py:make")
    picture = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(5))
    wanted = load_own().model(picture).log_softmax(1)
    torch.testing.assert_close(network.model(picture), wanted, rtol=1e-5, atol=1e-5)

"""Networks of the operator's own code: built, explained as plain PyTorch has it, or refused in words that help."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from app.cam.engine import explain
from app.cam.methods import METHODS
from app.cam.questions import Question
from app.cam.split import GraphSplit
from app.cam.splitting import split_network
from app.cam.utilities import utilities_of
from service_models import load_network
from service_models.config import read_config
from service_models.errors import ArchitectureError, ConfigError, NetworkError
from service_models.spec import Network

CPU = torch.device("cpu")
VIEW = "preprocessing = { input_size = 48, mean = [0.5, 0.5, 0.5], std = [0.25, 0.25, 0.25] }"
CODE = """
import torch
from torch import nn
from helper import WIDTH


class Net(nn.Module):
    def __init__(self, classes=5, ending="nothing"):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, WIDTH, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.ReLU(),
        )
        self.fc = nn.Linear(WIDTH, classes)
        self.ending = ending

    def logits(self, x):
        return self.fc(self.features(x).mean((2, 3)))

    def forward(self, x):
        y = self.logits(x)
        if self.ending == "softmax":
            return y.softmax(1)
        if self.ending == "log_softmax":
            return y.log_softmax(1)
        if self.ending == "sigmoid":
            return y.sigmoid()
        if self.ending == "logsigmoid":
            return nn.functional.logsigmoid(y)
        if self.ending == "dict":
            return {"features": x, "scores": {"logits": y}}
        if self.ending == "tuple":
            return x, y
        return y


def build(**arguments):
    torch.manual_seed(3)
    return Net(**arguments)


def broken():
    raise ValueError("no luck")


def nothing():
    return 3
"""


def gradient_at(
    model: nn.Module, path: str, image: Tensor, scalar: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """What a module computes of a picture, and the gradient there, by a hook and autograd."""
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        seen.append(output.detach().requires_grad_())
        return seen[-1]

    handle = model.get_submodule(path).register_forward_hook(keep)
    value = scalar(model(image))
    handle.remove()
    (gradient,) = torch.autograd.grad(value, seen[-1])
    return seen[-1].detach(), gradient


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Network]:
    """Loads an entry of the configuration with these lines, of the code above."""
    (tmp_path / "net.py").write_text(CODE)
    (tmp_path / "helper.py").write_text("WIDTH = 6\n")

    def of(*lines: str, architecture: str = "python:net.py:build", view: str = VIEW) -> Network:
        config = tmp_path / "networks.toml"
        config.write_text("\n".join(["[networks.mine]", f'architecture = "{architecture}"', view, *lines]))
        return load_network(read_config(config)["mine"], CPU)

    return of


def test_a_file_beside_the_configuration(load: Callable[..., Network], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        network = load()
    assert network.weights == "built"
    assert network.labels == tuple("01234")
    assert dict(network.layers) == {"pre_gap": "features.4", "last_conv": "features.3"}
    assert network.preprocessing.input_size == (48, 48)


def test_a_module_of_a_package(load: Callable[..., Network], tmp_path: Path) -> None:
    package = tmp_path / "own_networks_of_a_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "small.py").write_text(CODE)
    network = load("arguments = { classes = 3 }", architecture="python:own_networks_of_a_test.small:Net")
    assert len(network.labels) == 3


def test_arguments_and_weights(load: Callable[..., Network], tmp_path: Path) -> None:
    state = {name: torch.full_like(value, -0.01) for name, value in load().model.state_dict().items()}
    torch.save(state, tmp_path / "mine.pth")
    network = load('weights = "mine.pth"', "arguments = { classes = 5 }", 'labels = ["a", "b", "c", "d", "e"]')
    assert network.weights == "file/mine.pth"
    assert all((value == -0.01).all() for value in network.model.state_dict().values())


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
    load: Callable[..., Network], ending: str, lines: list[str]
) -> None:
    plain, network = load(), load(f'arguments = {{ ending = "{ending}" }}', *lines)
    pictures = torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    expected = plain.model.double()(pictures.double())
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
    load: Callable[..., Network], ending: str, lines: list[str], utility: str, layer: str
) -> None:
    """By hooks and autograd on the module as its author wrote it, whose own probabilities are taken."""
    network = load(f'arguments = {{ ending = "{ending}" }}', *lines)
    plain = load().model.double()
    image = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    split = split_network(network.model.double(), network.layers[layer], (48, 48))
    assert isinstance(split, GraphSplit)  # each coalition costs a head, not a whole network
    questions = [
        Question(0, METHODS[name], utilities_of(network.scores)[utility], 2) for name in ("hirescam", "liftcam")
    ]
    found, lift = explain(split, image, questions, metrics=False).explanations

    def scalar(logits: Tensor) -> Tensor:
        own = logits[:, 2]
        if ending == "softmax":
            own = logits.log_softmax(1)[:, 2]
        log = nn.functional.logsigmoid(own) if ending == "sigmoid" else logits.log_softmax(1)[:, 2]
        return {"pre-softmax": own, "rest": own + log, "post-softmax": log.exp(), "log-softmax": log}[utility].sum()

    activations, gradient = gradient_at(plain, network.layers[layer], image, scalar)
    expected = (gradient * activations).sum(dim=1)[0]
    torch.testing.assert_close(found.attribution, expected, rtol=1e-6, atol=1e-9)
    # Contributions to all channels sum to what the utility loses without them.
    with torch.no_grad():
        whole = scalar(plain(image))
        module = plain.get_submodule(network.layers[layer])
        with module.register_forward_hook(lambda _module, _inputs, output: torch.zeros_like(output)):
            empty = scalar(plain(image))
    weights = lift_weights(split, image, questions[1])
    torch.testing.assert_close(weights.sum(), whole - empty, rtol=1e-6, atol=1e-8)
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
    load: Callable[..., Network], ending: str, scores: str, words: str
) -> None:
    lines = [f'arguments = {{ ending = "{ending}" }}', f'scores = "{scores}"']
    with pytest.raises(ConfigError, match=words):
        load(*lines)
    assert load(*lines, 'output_is = "logits"').labels == tuple("01234")


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
    load: Callable[..., Network], ending: str, scores: str, stated: str, words: str
) -> None:
    lines = [f'arguments = {{ ending = "{ending}" }}', f'scores = "{scores}"', f'output_is = "{stated}"']
    with pytest.raises(ConfigError, match=words):
        load(*lines)


def test_a_checkpoint_of_more_classes_names_what_own_code_takes(load: Callable[..., Network], tmp_path: Path) -> None:
    torch.save(load("arguments = { classes = 7 }").model.state_dict(), tmp_path / "mine.pth")
    with pytest.raises(NetworkError, match=r"set the number of classes in `arguments` to 7$"):
        load('weights = "mine.pth"')


def test_networks_whose_files_import_others_of_one_name_do_not_share_them(tmp_path: Path) -> None:
    entries = []
    for name, width in (("a", 4), ("b", 7)):
        folder = tmp_path / name
        (folder / "parts").mkdir(parents=True)
        (folder / "net.py").write_text(CODE.replace("from helper", "from parts.sizes"))
        (folder / "parts" / "__init__.py").write_text("")
        (folder / "parts" / "sizes.py").write_text(f"from common import BASE\nWIDTH = BASE + {width}\n")
        entries.append(f'[networks.{name}]\narchitecture = "python:{name}/net.py:build"\n{VIEW}\n')
    (tmp_path / "common.py").write_text("BASE = 1\n")
    config = tmp_path / "networks.toml"
    config.write_text("".join(entries))
    specs = read_config(config)
    for name, width in (("a", 5), ("b", 8), ("a", 5)):
        assert load_network(specs[name], CPU).model.get_submodule("fc").in_features == width


def test_a_forward_of_the_object_is_converted_as_that_of_a_class(load: Callable[..., Network], tmp_path: Path) -> None:
    (tmp_path / "patched.py").write_text(
        "from net import build\n\n\ndef make():\n    net = build()\n"
        "    inner = net.forward\n    net.forward = lambda x: inner(x).softmax(1)\n    return net\n"
    )
    network = load('output_is = "probabilities"', architecture="python:patched.py:make")
    picture = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(5))
    wanted = load().model(picture).log_softmax(1)
    torch.testing.assert_close(network.model(picture), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("lines", "changes", "words"),
    [
        (['weights = "hub"'], {}, "weights: 'hub' has none for own code; expected a file, a folder or"),
        (['weights = "embedded"'], {}, "weights: 'embedded' has none for own code"),
        (["labels = []"], {}, "labels: expected a name for each class"),
        (
            [],
            {"view": "preprocessing = { input_size = 48, mean = [0.5, 0.5], std = [0.25, 0.25] }"},
            "preprocessing.mean: expected one number, for grey, or three, for colours, not 2",
        ),
        (
            ['arguments = { ending = "tuple" }', 'weights = "random"'],
            {},
            "output: forward returns a tuple of 2; state which",
        ),
        (
            ["arguments = { classes = 1 }", 'labels = ["benign", "malignant"]', 'scores = "sigmoid"'],
            {},
            "classes = 2, but the network has 1; state classes = 1 for its one logit",
        ),
        ([], {"architecture": "python:absent.py:build"}, "architecture: there is no file .*absent.py"),
        ([], {"architecture": "python:net.py"}, "architecture: .* is not .python:FILE.py:NAME."),
        ([], {"architecture": "python:net.py:absent"}, "there is no such class or function; it has .*build"),
        (
            [],
            {"architecture": "python:no_such_package:Net"},
            "cannot be imported: ModuleNotFoundError: No module named",
        ),
        ([], {"architecture": "python:net.py:broken"}, r"fails: ValueError: no luck \(net\.py, line \d+\)"),
        ([], {"architecture": "python:net.py:nothing"}, "returns int, not a torch.nn.Module"),
        (["arguments = { width = 3 }"], {}, "fails: TypeError: .*unexpected keyword argument 'width'"),
        ([], {"view": "preprocessing = { input_size = 48 }"}, "so mean, std must be stated here"),
        ([], {"view": ""}, "so input_size, mean, std must be stated here"),
        (
            ['arguments = { ending = "dict" }'],
            {},
            "output: forward returns a mapping with the keys 'features', 'scores'",
        ),
        (['arguments = { ending = "tuple" }'], {}, "output: forward returns a tuple of 2; state which"),
        (['arguments = { ending = "tuple" }', 'output = "2"'], {}, "output: there is no '2'"),
        (['arguments = { ending = "dict" }', 'output = "scores"'], {}, "output: 'scores' is no tensor"),
        (["classes = 4"], {}, "classes = 4, but the network has 5"),
    ],
)
def test_what_cannot_be_is_refused_in_words_that_help(
    load: Callable[..., Network], lines: list[str], changes: dict[str, str], words: str
) -> None:
    with pytest.raises(NetworkError, match=words) as caught:
        load(*lines, **changes)
    assert str(caught.value).isprintable()


def test_code_that_cannot_be_imported_is_told_with_its_line(load: Callable[..., Network], tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text("x = 1\ny = x +\n")
    with pytest.raises(ArchitectureError, match=r"python:wrong\.py:Net: cannot be imported: SyntaxError"):
        load(architecture="python:wrong.py:Net")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["classes = 5", "arguments = { num_classes = 7 }"], "arguments.num_classes: 7 contradicts classes = 5"),
        (
            ["arguments = { img_size = 64 }", "preprocessing = { input_size = 96 }"],
            "arguments.img_size: 64 contradicts",
        ),
    ],
)
def test_arguments_that_contradict_the_entry_are_refused(tmp_path: Path, lines: list[str], words: str) -> None:
    config = tmp_path / "networks.toml"
    config.write_text("\n".join(["[networks.mine]", 'architecture = "timm:test_vit"', *lines]))
    with pytest.raises(ConfigError, match=words):
        read_config(config)


def test_arguments_reach_the_libraries(tmp_path: Path) -> None:
    config = tmp_path / "networks.toml"
    config.write_text(
        '[networks.mine]\narchitecture = "timm:test_resnet"\nweights = "random"\narguments = { drop_rate = 0.25 }\n'
    )
    network = load_network(read_config(config)["mine"], CPU)
    assert network.model.drop_rate == 0.25

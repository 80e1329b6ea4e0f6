"""Entries of networks of the operator's own code: built with arguments and weights, or refused in words that help."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from service_models import load_network
from service_models.config import read_config
from service_models.errors import ArchitectureError, ConfigError, NetworkError
from service_models.spec import Network
from tests.service_models.own_code import CODE, VIEW

CPU = torch.device("cpu")


def test_a_file_beside_the_configuration(load_own: Callable[..., Network], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        network = load_own()
    assert network.weights == "built"
    assert network.labels == tuple("01234")
    assert dict(network.layers) == {"pre_gap": "features.4", "last_conv": "features.3"}
    assert network.preprocessing.input_size == (48, 48)


def test_a_module_of_a_package(load_own: Callable[..., Network], tmp_path: Path) -> None:
    package = tmp_path / "own_networks_of_a_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "small.py").write_text(CODE)
    network = load_own("arguments = { classes = 3 }", architecture="python:own_networks_of_a_test.small:Net")
    assert len(network.labels) == 3


def test_arguments_and_weights(load_own: Callable[..., Network], tmp_path: Path) -> None:
    state = {name: torch.full_like(value, -0.01) for name, value in load_own().model.state_dict().items()}
    torch.save(state, tmp_path / "mine.pth")
    network = load_own('weights = "mine.pth"', "arguments = { classes = 5 }", 'labels = ["a", "b", "c", "d", "e"]')
    assert network.weights == "file/mine.pth"
    assert all((value == -0.01).all() for value in network.model.state_dict().values())


def test_a_checkpoint_of_more_classes_names_what_own_code_takes(
    load_own: Callable[..., Network], tmp_path: Path
) -> None:
    torch.save(load_own("arguments = { classes = 7 }").model.state_dict(), tmp_path / "mine.pth")
    with pytest.raises(NetworkError, match=r"set the number of classes in `arguments` to 7$"):
        load_own('weights = "mine.pth"')


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
    load_own: Callable[..., Network], lines: list[str], changes: dict[str, str], words: str
) -> None:
    with pytest.raises(NetworkError, match=words) as caught:
        load_own(*lines, **changes)
    assert str(caught.value).isprintable()


def test_code_that_cannot_be_imported_is_told_with_its_line(load_own: Callable[..., Network], tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text("x = 1\ny = x +\n")
    with pytest.raises(ArchitectureError, match=r"python:wrong\.py:Net: cannot be imported: SyntaxError"):
        load_own(architecture="python:wrong.py:Net")


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

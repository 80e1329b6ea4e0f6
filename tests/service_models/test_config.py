"""The configuration file: what entries mean, and how wrong ones are answered."""

from collections.abc import Callable
from pathlib import Path

import pytest

from service_models import CATALOGUE, NetworkSpec, Preprocessing, Random, resolve
from service_models.config import read_config
from service_models.errors import ConfigError
from service_models.preprocessing import library_preprocessing
from service_models.spec import CheckpointFile, Embedded, Hub
from tests.operators_files import UNREADABLE

Reader = Callable[[str], dict[str, NetworkSpec]]


@pytest.fixture
def read(tmp_path: Path) -> Reader:
    (tmp_path / "birds.safetensors").touch()
    (tmp_path / "labels.txt").write_text("magpie\nrobin\nwrén\n", encoding="utf-8")

    def read_text(text: str) -> dict[str, NetworkSpec]:
        path = tmp_path / "networks.toml"
        path.write_text(text, encoding="utf-8")
        return read_config(path)

    return read_text


def test_a_checkpoint_of_ones_own(read: Reader, tmp_path: Path) -> None:
    spec = read(
        """
        [networks.birds]
        architecture = "timm:resnet50"
        weights = "birds.safetensors"
        classes = 3
        labels = "labels.txt"
        [networks.birds.preprocessing]
        input_size = 256
        mean = [0.5, 0.5, 0.5]
        [networks.birds.layers]
        last_conv = "layer4.1.conv3"
        """
    )["birds"]

    own = library_preprocessing(resolve("resnet50", {"resnet50": NetworkSpec("x", "timm", "resnet50")}))
    assert spec.name == "birds"
    assert (spec.library, spec.architecture) == ("timm", "resnet50")
    assert spec.weights == CheckpointFile(tmp_path / "birds.safetensors")
    assert spec.labels == ("magpie", "robin", "wrén")
    assert spec.classes == 3
    assert spec.layers == {"last_conv": "layer4.1.conv3"}
    assert spec.preprocessing is not None
    assert spec.preprocessing.input_size == (256, 256)
    assert spec.preprocessing.mean == (0.5, 0.5, 0.5)
    assert (spec.preprocessing.std, spec.preprocessing.interpolation) == (own.std, own.interpolation)


def test_an_entry_named_like_a_catalogue_network_changes_only_what_it_states(read: Reader) -> None:
    spec = read('[networks.resnet50]\nweights = "random"\nseed = 7\n')["resnet50"]

    known = CATALOGUE["resnet50"]
    assert spec.weights == Random(7)
    assert (spec.layers, spec.preprocessing) == (known.layers, known.preprocessing)


def test_a_bare_architecture_takes_over_from_the_catalogue(read: Reader) -> None:
    spec = read('[networks.birds]\narchitecture = "vgg16"\nweights = "birds.safetensors"\n')["birds"]

    assert (spec.name, spec.architecture) == ("birds", "vgg16")
    assert spec.layers == CATALOGUE["vgg16"].layers


@pytest.mark.parametrize(
    ("weights", "source"),
    [
        ("hub", Hub("IMAGENET1K_V1")),
        ("hub:IMAGENET1K_V2", Hub("IMAGENET1K_V2")),
        ("embedded", Embedded()),
        ("random", Random(0)),
    ],
)
def test_sources_of_weights(read: Reader, weights: str, source: object) -> None:
    assert read(f'[networks.resnet50]\nweights = "{weights}"\n')["resnet50"].weights == source


def test_the_number_of_labels_is_the_number_of_classes(read: Reader) -> None:
    spec = read('[networks.resnet50]\nlabels = ["a", "b"]\nweights = "random"\n')["resnet50"]

    assert (spec.classes, spec.labels) == (2, ("a", "b"))


def test_the_short_side_grows_with_the_input(read: Reader) -> None:
    text = "[networks.resnet18.preprocessing]\ninput_size = [448, 336]\n"

    assert read(text)["resnet18"].preprocessing == Preprocessing((448, 336), 512)


def test_an_empty_file_has_no_networks(read: Reader) -> None:
    assert read("") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[networks", "is not valid TOML"),
        ("[network.x]", r"\[network\].*[Ee]xtra"),
        ("[networks.resnet50]\nweight = 'random'", r"\[networks\.resnet50\]: weight: Extra inputs"),
        ("[networks.resnet50]\nclasses = 'many'", r"\[networks\.resnet50\]: classes: .*, not 'many'"),
        ("[networks.resnet50]\nclasses = 0", r"classes: .*greater than or equal to 1"),
        ("[networks.resnet50.preprocessing]\nmean = [1.0]", r"\[networks\.resnet50\]: preprocessing\.mean"),
        ("[networks.resnet50.preprocessing]\nstd = [0.0, 1.0, 1.0]", r"preprocessing\.std\.0: .*greater than 0"),
        ("[networks.resnet50.preprocessing]\ninterpolation = 'box'", r"preprocessing\.interpolation"),
        ("[networks.resnet50.preprocessing]\nresize_size = 100", r"preprocessing\.resize_size: 100 px is less"),
        ("[networks.resnet50.layers]\nlast = 'layer4'", r"layers\.last: Extra inputs"),
        ("[networks.resnet5]", r"\[networks\.resnet5\]: architecture: .*close names: .*resnet50"),
        ("[networks.b]\narchitecture = 'keras:resnet50'", "'keras' is not a library"),
        ("[networks.b]\narchitecture = 'torchvision:resnet'", "torchvision has no network 'resnet'"),
        ("[networks.'a b']\narchitecture = 'resnet50'", "a name takes letters"),
        ("[networks.resnet50]\nweights = 'none.pth'", r"weights: there is no file .*none\.pth"),
        ("[networks.resnet50]\nweights = 'labels.txt'", r"weights: 'labels\.txt' is neither"),
        ("[networks.resnet50]\nweights = 'hub:'", "weights: 'hub:' is neither"),
        ("[networks.resnet50]\nseed = 1", "seed: only with"),
        ("[networks.resnet50]\nlabels = 'none.txt'", r"labels: .*none\.txt cannot be read"),
        ("[networks.resnet50]\nlabels = 'labels.txt'\nclasses = 4", "labels: 3 names, but classes = 4"),
    ],
)
def test_a_wrong_entry_is_named_with_file_and_field(read: Reader, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read(text)
    assert "networks.toml" in str(caught.value)


def test_every_fault_is_listed(read: Reader) -> None:
    with pytest.raises(ConfigError) as caught:
        read("[networks.a]\nclasses = 0\n[networks.b]\nseed = -1\n")
    assert len(str(caught.value).splitlines()) == 2


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml: cannot be read"):
        read_config(tmp_path / "absent.toml")


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_cannot_be_read_is_refused_at_once_and_in_a_line(tmp_path: Path, kind: str) -> None:
    make, message = UNREADABLE[kind]
    path = tmp_path / "networks.toml"
    make(path)
    with pytest.raises(
        ConfigError, match=f"networks.toml: (cannot be read|is not valid TOML): .*({message})"
    ) as caught:
        read_config(path)
    assert len(str(caught.value).splitlines()) == 1


LONG = "k" * 40_000
PARTS = "a." * 20_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"x = {'[' * 50_000}", "nested too deeply"),
        ("x = " + "{a=" * 50_000, "nested too deeply"),
        (f"{PARTS}b = 1", "a key of over 100 parts"),
        (f"[{PARTS}b]", "a key of over 100 parts"),
        (f"x = {{ {PARTS}b = 1 }}", "a key of over 100 parts"),
        ("'a' . " * 20_000 + '"b" = 1', "a key of over 100 parts"),
        (f"x = {'9' * 5000}", "is not valid TOML: Exceeds the limit"),
        (f"[networks.resnet50]\nclasses = 0x{'f' * 5000}", "classes: .*not a very long int"),
        ("[networks.resnet50]\nclasses = 1000001", "classes: .*less than or equal to 1000000"),
        (f"{LONG} = 1", r"\[kkkk"),
        (f"[networks.{LONG}]", "a name takes letters"),
        (f"[networks.{LONG}]\nx = 1", "Extra inputs"),
        (f"[networks.resnet50]\n{LONG} = 1", "Extra inputs"),
        ("[networks.resnet50]\n'a\\nb\\u2028' = 1".replace("'", '"'), r"a\\nb\\u2028: Extra inputs"),
        (f"[networks.b]\narchitecture = '{LONG}'", "architecture: .*at most 4096 characters"),
        ('[networks.b]\narchitecture = "resnet\\n50"', "architecture: .*should match pattern"),
        (f"[networks.resnet50.layers]\npre_gap = '{LONG}'", r"layers\.pre_gap: .*at most 200"),
        (f"[networks.resnet50]\nweights = '{LONG}'", "weights: .*at most 4096"),
        (f"[networks.resnet50]\nweights = '{LONG[:4000]}.pth'", "weights: .*(there is no file|is not a path)"),
        ("[networks.resnet50]\nweights = 'loop.pth'", "weights: .*(there is no file|is not a path)"),
        ("[networks.resnet50]\nlabels = 'loop.pth'", "labels: .*(cannot be read|is not a path)"),
        ("[networks.resnet50]\nweights = '~nobody-of-this-name/a.pth'", "weights: .* is not a path"),
        ('[networks.resnet50]\nweights = "a\\u0000.pth"', "weights: .* is not a path"),
        (f"[networks.resnet50]\nlabels = ['{'x' * 10_001}', 'b']", r"labels\.0: .*at most 10000"),
        (f"[networks.resnet50]\nlabels = {['a'] * 300_000}", "is larger than 1,048,576 bytes"),
    ],
)
def test_what_is_absurd_is_refused_in_a_line(read: Reader, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "loop.pth").symlink_to(tmp_path / "loop.pth")
    with pytest.raises(ConfigError, match=message) as caught:
        read(text)
    for line in str(caught.value).splitlines():
        assert "networks.toml: " in line
        assert len(line) < 1000
        assert line.isprintable()


def test_of_very_many_faults_some_are_listed(read: Reader) -> None:
    with pytest.raises(ConfigError, match="19990 more faults") as caught:
        read("[networks.resnet50]\n" + "".join(f"a{number} = 1\n" for number in range(20_000)))
    assert len(str(caught.value).splitlines()) == 11

"""From names to specifications."""

import pytest

from service_models import CATALOGUE, NetworkSpec, resolve
from service_models.errors import UnknownNetwork
from service_models.spec import Hub


def test_the_configuration_wins_over_the_catalogue_and_the_catalogue_over_the_libraries() -> None:
    own = NetworkSpec("resnet50", "timm", "resnet50")

    assert resolve("resnet50", {"resnet50": own}) is own
    assert resolve("resnet50") is CATALOGUE["resnet50"]
    assert resolve("densenet121").library == "torchvision"
    assert resolve("convnext_atto").library == "timm"


def test_a_timm_name_may_carry_its_weight_tag() -> None:
    spec = resolve("convnext_atto.d2_in1k")

    assert (spec.name, spec.architecture, spec.weights) == (
        "convnext_atto.d2_in1k",
        "convnext_atto",
        Hub("d2_in1k"),
    )


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("resnet5", "resnet50"),
        ("swin_tiny_patch4_window7", "swin_tiny_patch4_window7_224"),
        ("convnext_atto.d2", "convnext_atto.d2_in1k"),
    ],
)
def test_an_unknown_name_is_answered_with_close_ones(name: str, close: str) -> None:
    with pytest.raises(UnknownNetwork, match=f"close names: .*{close}"):
        resolve(name)


def test_names_of_the_configuration_are_among_the_close_ones() -> None:
    with pytest.raises(UnknownNetwork, match="close names: my_birds"):
        resolve("my_bird", {"my_birds": NetworkSpec("my_birds", "timm", "resnet50")})


@pytest.mark.parametrize(
    "name", ["fasterrcnn_resnet50_fpn", "fcn_resnet50", "r3d_18", "raft_large", "quantized_resnet18"]
)
def test_what_is_no_image_classifier_of_torchvision_is_unknown(name: str) -> None:
    with pytest.raises(UnknownNetwork):
        resolve(name)


@pytest.mark.parametrize("name", ["", "a b", "../etc/passwd", "timm:resnet50", "résnet", "resnet50\n"])
def test_a_name_of_other_characters_is_refused(name: str) -> None:
    with pytest.raises(UnknownNetwork, match="is not a network name"):
        resolve(name)

"""Class names."""

import pytest

from service_models import ConfigError, NetworkSpec
from service_models.labels import labels_of

SPEC = NetworkSpec("birds", "timm", "resnet18")


def test_a_thousand_classes_are_those_of_imagenet() -> None:
    labels = labels_of(SPEC, 1000)

    assert (labels[0], labels[281], labels[999]) == ("tench", "tabby", "toilet tissue")


def test_other_numbers_of_classes_are_numbered() -> None:
    assert labels_of(SPEC, 3) == ("0", "1", "2")


def test_names_and_classes_must_agree_in_number() -> None:
    with pytest.raises(ConfigError, match="2 labels for a network with 3 classes"):
        labels_of(NetworkSpec("birds", "timm", "resnet18", labels=("a", "b")), 3)

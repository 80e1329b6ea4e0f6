"""The names of a network's classes."""

from torchvision.models import ResNet50_Weights

from service_models.errors import ConfigError
from service_models.spec import NetworkSpec

IMAGENET_CLASSES = 1000


def imagenet_labels() -> tuple[str, ...]:
    """The 1,000 ImageNet classes in order, as torchvision names them."""
    return tuple(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])


def labels_of(spec: NetworkSpec, classes: int) -> tuple[str, ...]:
    """Class names in order: the spec's own, ImageNet's for 1,000 classes, else "0", "1", ...

    Args:
        spec: the network.
        classes: how many logits it has.

    Raises:
        ConfigError: the spec names more or fewer classes than the network has.
    """
    if spec.labels is None:
        return imagenet_labels() if classes == IMAGENET_CLASSES else tuple(map(str, range(classes)))
    if len(spec.labels) != classes:
        raise ConfigError(
            f"{spec.name}: {len(spec.labels)} labels for a network with {classes} classes; they must be equal"
        )
    return spec.labels

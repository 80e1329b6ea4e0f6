"""Networks with a single logit become networks of two labels, however they end."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from app.cam.split import GraphSplit
from app.cam.splitting import split_network
from service_models import NetworkError, find_networks, load_network
from service_models.outputs import as_two_labels


class Squeezed(nn.Module):
    """Takes its last dimension away, as many binary classifiers do."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 6, 3)
        self.fc = nn.Linear(6, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.features(images).relu().mean(dim=(2, 3))).squeeze(1)


class Convolutional(nn.Module):
    """Ends with a convolution and pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 6, 3)
        self.score = nn.Conv2d(6, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.score(self.features(images).relu()).mean(dim=(2, 3))


class Plain(nn.Module):
    """Ends with a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 6, 3)
        self.fc = nn.Linear(6, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.features(images).relu().mean(dim=(2, 3)))


class SqueezedToANumber(Plain):
    """Takes all dimensions of one away: of one picture it returns a bare number."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).squeeze()


class Shaped(Plain):
    """Says that it returns one logit."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).view(images.size(0), 1)


class Normed(Plain):
    """Its weights are computed whenever they are used."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.utils.parametrizations.weight_norm(self.fc)


@pytest.mark.parametrize("kind", [Squeezed, Convolutional, Plain, SqueezedToANumber, Shaped, Normed])
def test_the_logits_are_minus_z_and_z_and_paths_stay(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = kind().eval().requires_grad_(requires_grad=False)
    paths = [name for name, _ in model.named_modules()]
    images = torch.randn(5, 3, 16, 16)
    logit = model(images).reshape(-1)
    as_two_labels(model, images[:2])
    torch.testing.assert_close(model(images), torch.stack((-logit, logit), dim=1))
    torch.testing.assert_close(model(images[:1]), torch.stack((-logit[:1], logit[:1]), dim=1))
    assert [name for name, _ in model.named_modules()] == paths
    split = split_network(model, "features", (16, 16))
    assert isinstance(split, GraphSplit)
    torch.testing.assert_close(split.logits(images), torch.stack((-logit, logit), dim=1))


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("classes = 1", 'scores: classes = 1 is a single logit, and takes scores = "sigmoid"'),
        ('labels = ["malignant"]', "state classes = 1 and scores"),
        ('scores = "sigmoid"\nlabels = ["malignant"]', "state classes = 1 and scores"),
        ('classes = 1\nscores = "sigmoid"\nlabels = ["a", "b", "c"]', "labels: 3 names, but classes = 1"),
        ('scores = "softplus"', "scores: Input should be 'softmax' or 'sigmoid'"),
    ],
)
def test_what_cannot_be_right_is_refused_with_the_key_to_set(tmp_path: Path, entry: str, said: str) -> None:
    path = tmp_path / "networks.toml"
    path.write_text(f'[networks.one]\narchitecture = "timm:test_resnet"\nweights = "random"\n{entry}\n')
    with pytest.raises(NetworkError, match=said):
        find_networks(["one"], path)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("", ("0", "1")),
        ('labels = ["malignant"]', ("not malignant", "malignant")),
        ('labels = ["benign", "malignant"]', ("benign", "malignant")),
    ],
)
def test_labels_of_a_single_logit_put_the_negative_one_first(
    tmp_path: Path, labels: str, expected: tuple[str, str]
) -> None:
    path = tmp_path / "networks.toml"
    entry = f'architecture = "timm:test_resnet"\nweights = "random"\nclasses = 1\nscores = "sigmoid"\n{labels}\n'
    path.write_text(f"[networks.one]\n{entry}")
    (spec,) = find_networks(["one"], path)
    network = load_network(spec, torch.device("cpu"))
    assert network.labels == expected
    assert network.model(torch.randn(2, 3, 160, 160)).shape == (2, 2)

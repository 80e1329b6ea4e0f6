"""What an evaluation is asked to do."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from app.cam.methods import METHODS
from app.cam.utilities import CANONICAL
from app.evaluation.errors import EvaluationError
from service_models.layer_paths import module_of

TargetChoice = Literal["predicted", "label"]

# The order of the paper's tables.
PAPER_METHODS = (
    "randomcam",
    "gradcam++",
    "xgradcam",
    "layercam",
    "gradcam-e",
    "shapleycam-e",
    "hirescam",
    "shapleycam-h",
    "gradcam",
    "shapleycam",
)


@dataclass(frozen=True, slots=True)
class Combination:
    """One cell of a table for each image.

    Attributes:
        layer: as it was named: `pre_gap`, `last_conv`, `last_norm` or a module path.
        method: the attribution method.
        utility: the utility function.
    """

    layer: str
    method: str
    utility: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What is evaluated, the same for every network.

    Attributes:
        layers: their names, or none for all that a network names.
        methods: names of the attribution methods.
        utilities: names of the utility functions.
        target: the class that is explained: the predicted one, or the label.
        seed: of the methods that draw.
    """

    layers: tuple[str, ...] = ()
    methods: tuple[str, ...] = PAPER_METHODS
    utilities: tuple[str, ...] = ("rest",)
    target: TargetChoice = "predicted"
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the names.

        Raises:
            EvaluationError: an unknown method or utility, or none.
        """
        _check_names("--methods", self.methods, METHODS)
        _check_names("--utilities", self.utilities, CANONICAL)
        object.__setattr__(self, "utilities", tuple(dict.fromkeys(CANONICAL[name] for name in self.utilities)))

    def layers_of(self, network: str, named: Mapping[str, str], paths: frozenset[str]) -> dict[str, str]:
        """The module paths of the layers that a network has, by their names.

        Args:
            network: its name.
            named: its named layers.
            paths: of all its modules.

        Raises:
            EvaluationError: it has none of them.
        """
        if not self.layers:
            return dict(named)
        found = {name: named.get(name, name) for name in self.layers if name in named or module_of(name) in paths}
        if not found:
            raise EvaluationError(
                f"--layers: {network} has none of {', '.join(self.layers)}; it has {', '.join(named)}, or a module path"
            )
        return found

    def combinations(self, layers: Mapping[str, str]) -> list[Combination]:
        """Everything that is evaluated at these layers."""
        return [
            Combination(layer, method, utility)
            for layer in layers
            for utility in self.utilities
            for method in self.methods
        ]


def _check_names(option: str, names: tuple[str, ...], known: Mapping[str, object]) -> None:
    if not names:
        raise EvaluationError(f"{option}: names none; it takes {', '.join(known)}")
    for name in names:
        if name not in known:
            raise EvaluationError(f"{option}: there is no {name!r}; it takes {', '.join(known)}")

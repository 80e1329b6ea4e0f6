"""From the fields of a request to the questions that the engine is asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from app.api.targets import check_top_k, resolve_layers, resolve_targets
from app.cam.game import Effort
from app.cam.methods import METHODS
from app.cam.questions import Question, Target
from app.cam.utilities import UTILITIES
from app.errors import InvalidParameter
from app.parameters import ExplanationParameters
from app.runtime.backend import Backend, Begun, nobody_asks
from app.runtime.decoding import Reading
from app.runtime.pipeline import Answer, explain_layers
from app.settings import Settings


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks about a picture.

    Attributes:
        layers: names as replied, with their module paths.
        questions: by target, then method, then utility; the seed is the caller's.
        parameters: of the request.
        limit_s: how long the answer may take.
    """

    layers: dict[str, str]
    questions: list[Question]
    parameters: ExplanationParameters
    limit_s: float

    async def explain(self, served: Backend, seen: Reading, begun: Begun = nobody_asks) -> Answer:
        """Asks the network; `begun` is called when the device begins."""
        return await explain_layers(
            served,
            seen,
            tuple(self.layers.values()),
            self.questions,
            smooth=self.parameters.smooth,
            limit_s=self.limit_s,
            begun=begun,
        )


def ask(
    parameters: ExplanationParameters,
    methods: Sequence[str],
    utilities: Sequence[str],
    served: Backend,
    settings: Settings,
) -> Asked:
    """Turns a request into questions, and refuses what cannot be answered in time.

    Raises:
        InvalidParameter: a field that does not fit the network, or an estimate over the time budget.
    """
    check_top_k(parameters, served)
    layers = resolve_layers(served, parameters.layer)
    if parameters.reference != "none" and len(layers) > 1:
        message = "reference: Shapley values belong to one layer, and several were asked for"
        raise InvalidParameter(message, field="reference", takes="none where there are several layers")
    targets = resolve_targets(parameters.target, served.network.labels, settings.max_targets)
    questions = [
        _question(parameters, target, method, utility)
        for target, method, utility in product(targets, methods, utilities)
    ]
    paths = tuple(layers.values())
    limit_s = settings.timeout_s
    served.refuse_beyond(limit_s, paths, questions, parameters.smooth)
    return Asked(layers, questions, parameters, limit_s)


def _question(parameters: ExplanationParameters, target: Target, method: str, utility: str) -> Question:
    return Question(
        0,
        METHODS[method],
        UTILITIES[utility],
        target,
        parameters.seed,
        Effort(parameters.permutations, parameters.tolerance, parameters.nodes),
        metrics=parameters.metrics,
        reference=parameters.reference != "none",
    )

"""From the fields of a request to what the network is asked."""

from itertools import product

from app.api.targets import check_top_k, resolve_layers, resolve_targets
from app.cam.methods import METHODS, Method
from app.cam.questions import Question, Target
from app.cam.utilities import Utility, utilities_of
from app.cam.work import SamplingOptions
from app.errors import InvalidParameter
from app.parameters import CompareParameters, ExplainParameters, ExplanationParameters
from app.runtime.backend import Backend, ExplainRequest
from app.runtime.runtime import Runtime


def build_request(
    parameters: ExplainParameters | CompareParameters, runtime: Runtime, model: str | None
) -> tuple[Backend, dict[str, str], ExplainRequest]:
    """Turns parameters into questions by target, then method, then utility, and admits the request.

    Args:
        parameters: of the request.
        runtime: has the networks and the limits.
        model: the name of the network; None for the first.

    Returns:
        The network; the layers' names as replied, with their module paths; and what the network is asked.

    Raises:
        UnknownModel: there is no such network.
        NotReady: it is still loading.
        InvalidParameter: a field that does not fit the network, or an estimate over the time limit.
        LayerError: a layer is no module of the network.
    """
    backend, settings = runtime.network(model), runtime.settings
    check_top_k(parameters, backend)
    layers = resolve_layers(backend, parameters.layer)
    if parameters.reference != "none" and len(layers) > 1:
        message = "reference: Shapley values belong to one layer, and several were asked for"
        raise InvalidParameter(message, field="reference", expected="none where there are several layers")
    targets = resolve_targets(parameters.target, backend.labels, settings.max_targets)
    methods, utilities = (
        [names] if isinstance(names, str) else names for names in (parameters.method, parameters.utility)
    )
    known = utilities_of(backend.network.scores)
    questions = tuple(
        _question(parameters, target, METHODS[method], known[utility])
        for target, method, utility in product(targets, methods, utilities)
    )
    request = ExplainRequest(tuple(layers.values()), questions, parameters.smooth, settings.timeout_s)
    return backend, layers, backend.admit(request)


def _question(parameters: ExplanationParameters, target: Target, method: Method, utility: Utility) -> Question:
    return Question(
        0,
        method,
        utility,
        target,
        parameters.seed,
        SamplingOptions(parameters.permutations, parameters.tolerance, parameters.nodes),
        metrics=parameters.metrics,
        reference=parameters.reference != "none",
    )

"""GET /v1/models, /v1/methods, /v1/utilities: what a caller can choose from."""

from fastapi import APIRouter, Request

from app.api.context import runtime_of
from app.api.openapi import documented
from app.cam.methods import METHODS
from app.cam.utilities import UTILITIES
from app.schemas import Entry, Labels, Methods, Model, Models, Utilities, UtilityEntry

router = APIRouter(tags=["choices"])


@router.get("/v1/models", summary="List the networks", responses=documented(401, 500))
async def list_models(request: Request) -> Models:
    """The networks by name; the first is the default."""
    return Models(models=list(runtime_of(request).settings.models))


@router.get("/v1/models/{name}", summary="Describe a network", responses=documented(401, 404, 500, 503))
async def show_model(request: Request, name: str) -> Model:
    """Layers, input size, classes, weights and device of a network; 503 while it is still loading."""
    network = runtime_of(request).network(name).network
    return Model(
        name=network.name,
        ready=True,
        layers=dict(network.layers),
        input_size=network.preprocessing.input_size,
        channels=network.preprocessing.channels,
        scores=network.scores.name,
        classes=len(network.labels),
        weights=network.weights,
        device=str(network.device),
    )


@router.get("/v1/models/{name}/labels", summary="List a network's classes", responses=documented(401, 404, 500, 503))
async def list_labels(request: Request, name: str) -> Labels:
    """The class names in order."""
    return Labels(labels=list(runtime_of(request).network(name).network.labels))


@router.get("/v1/methods", summary="List the attribution methods", responses=documented(401, 500))
async def list_methods() -> Methods:
    """All methods with their sources and the parameters that only they take."""
    return Methods(
        methods=[
            Entry(name=m.name, description=m.description, source=m.source, parameters=list(m.parameters))
            for m in METHODS.values()
        ]
    )


@router.get("/v1/utilities", summary="List the utility functions", responses=documented(401, 500))
async def list_utilities() -> Utilities:
    """All utility functions with their sources."""
    return Utilities(
        utilities=[
            UtilityEntry(
                name=u.name,
                description=u.description,
                source=u.source,
                parameters=[],
                aliases=[u.alias] if u.alias != u.name else [],
            )
            for u in UTILITIES.values()
        ]
    )

"""GET /v2 and below: health and metadata of the Open Inference Protocol; its inference is not offered."""

from typing import NoReturn

from fastapi import APIRouter, Request

from app import __version__
from app.api.context import runtime_of
from app.api.openapi import VERSION, documented
from app.errors import Draining, NotOffered, NotReady, UnknownModel
from app.runtime.backend import Backend
from app.schemas import ErrorReply, Live, ModelMetadata, ModelReady, Ready, Server, TensorReply

router = APIRouter(tags=["open inference"])

_MODEL = "/v2/models/{name}"
_VERSIONED = "/v2/models/{name}/versions/{version}"
_OF_A_MODEL = documented(401, 404, 500, 503)
_NONE = documented(401, 500, 501)
# How many pictures there are is the caller's choice.
_ANY = -1


@router.get("/v2/", include_in_schema=False)
@router.get("/v2", summary="Describe the service", responses=documented(401, 500))
async def show_server() -> Server:
    """Name and version of the service."""
    return Server(name="shapley-cam-service", version=__version__, extensions=[])


@router.get("/v2/health/live", summary="Is the process alive? (Open Inference)")
async def live() -> Live:
    """Answers as long as the event loop turns."""
    return Live(live=True)


@router.get("/v2/health/ready", summary="Can requests be answered? (Open Inference)", responses=documented(503))
async def ready(request: Request) -> Ready:
    """As `/readyz`."""
    await runtime_of(request).check_ready()
    return Ready(ready=True)


@router.get(_MODEL, summary="Describe a network's tensors", responses=_OF_A_MODEL)
async def show_model(request: Request, name: str) -> ModelMetadata:
    """What goes in, posted to `/v1/models/{name}:predict`, and what comes out; 503 while it is still loading."""
    return _metadata(_backend(request, name))


@router.get(_VERSIONED, summary="Describe a version's tensors", responses=_OF_A_MODEL)
async def show_version(request: Request, name: str, version: str) -> ModelMetadata:
    """The same of the only version, 1."""
    return _metadata(_backend(request, name, version))


@router.get(f"{_MODEL}/ready", summary="Is a network ready?", responses=_OF_A_MODEL)
async def model_ready(request: Request, name: str) -> ModelReady:
    """200 while the network is loaded and its device works, 503 otherwise."""
    return await _ready(request, _backend(request, name))


@router.get(f"{_VERSIONED}/ready", summary="Is a version ready?", responses=_OF_A_MODEL)
async def version_ready(request: Request, name: str, version: str) -> ModelReady:
    """The same of the only version, 1."""
    return await _ready(request, _backend(request, name, version))


@router.post(f"{_MODEL}/infer", summary="Not offered", status_code=501, response_model=ErrorReply, responses=_NONE)
async def infer(name: str) -> NoReturn:
    """Names the operation that takes pictures instead of tensors: `POST /v1/models/{name}:predict`."""
    raise _not_offered(name)


@router.post(f"{_VERSIONED}/infer", summary="Not offered", status_code=501, response_model=ErrorReply, responses=_NONE)
async def infer_version(name: str, version: str) -> NoReturn:  # noqa: ARG001 - stands in the path
    """The same: `POST /v1/models/{name}:predict` is offered instead."""
    raise _not_offered(name)


def _backend(request: Request, name: str, version: str = VERSION) -> Backend:
    """The network of a path.

    Raises:
        UnknownModel: not configured, or another version than the only one.
        NotReady: still loading.
    """
    backend = runtime_of(request).network(name)
    if version != VERSION:
        message = f"the network '{name}' has no version '{version}'"
        raise UnknownModel(message, field="version", expected=VERSION, value=version)
    return backend


def _metadata(backend: Backend) -> ModelMetadata:
    scores = [_ANY, len(backend.network.labels)]
    return ModelMetadata(
        name=backend.network.name,
        versions=[VERSION],
        platform="pytorch_torch",
        inputs=[TensorReply(name="image", datatype="BYTES", shape=[_ANY])],
        outputs=[TensorReply(name=name, datatype="FP32", shape=scores) for name in ("probability", "logit")],
    )


async def _ready(request: Request, backend: Backend) -> ModelReady:
    """Judges a network's device as `/readyz` judges all.

    Raises:
        Draining: the service is stopping.
        NotReady: the device does not work.
    """
    runtime = runtime_of(request)
    if runtime.is_draining:
        raise Draining("the service is stopping")
    reason = await backend.why_not_ready(runtime.settings.timeout_s)
    if reason is not None:
        device = str(backend.network.device)
        raise NotReady(f"the device {device} {reason}", headers={"Retry-After": "5"}, device=device)
    return ModelReady(name=backend.network.name, ready=True)


def _not_offered(name: str) -> NotOffered:
    instead = f"POST /v1/models/{name}:predict"
    return NotOffered(f"inference on tensors is not supported: send pictures to {instead}", expected=instead)

"""The replies, to the letter of the wire contract (docs/api.md)."""

from typing import Literal

from pydantic import BaseModel, Field

from service_models.scores import ScoreName


class PictureReply(BaseModel):
    """The posted picture, upright."""

    width: int = Field(description="px")
    height: int = Field(description="px")
    format: str


class ViewReply(BaseModel):
    """Where the network looked."""

    fit: str
    box: tuple[float, float, float, float] = Field(
        description="left, top, right, bottom in px of the upright original; `pad` exceeds the picture"
    )
    input_size: tuple[int, int] = Field(description="height and width of the network's input in px")


class Prediction(BaseModel):
    """A class and its scores."""

    index: int
    label: str
    probability: float
    logit: float


class Png(BaseModel):
    """A PNG picture."""

    media_type: str = "image/png"
    width: int
    height: int
    b64: str | None = Field(description="the file, base64")


class AttributionReply(BaseModel):
    """The signed attribution on the grid of the target layer."""

    shape: tuple[int, int]
    values: list[list[float | None]] | None = Field(description="rows of the grid, top to bottom")
    standard_error: list[list[float | None]] | None = Field(
        None, description="of each value, where they were sampled; null where one pair of permutations tells nothing"
    )


class Efficiency(BaseModel):
    """How much of the utility the attribution accounts for."""

    attributed: float | None = Field(description="sum of the attribution")
    available: float | None = Field(description="U(A) - U(0)")


class FidelityReply(BaseModel):
    """How near an attribution is to the sampled Shapley values; null where undefined."""

    pearson: float | None = Field(description="correlation over the positions, -1 to 1")
    spearman: float | None = Field(description="correlation of their ranks, -1 to 1")
    cosine: float | None = Field(description="of the angle between the two as vectors, -1 to 1")
    relative_l2: float | None = Field(description="length of the difference over that of the Shapley values")
    efficiency_gap: float | None = Field(description="|sum of the attribution - (U(A) - U(0))| / |U(A) - U(0)|")


class MetricsReply(BaseModel):
    """Quality figures in percent; null where undefined."""

    average_drop: float | None
    coherency: float | None
    complexity: float | None
    adcc: float | None
    increase_in_confidence: float | None
    average_drop_in_deletion: float | None


class ExplanationReply(BaseModel):
    """One explanation."""

    target: Prediction
    method: str
    utility: str
    utility_value: float | None
    hvp_norm: float | None = Field(description="L2 norm; null where the method does not use it")
    forward_passes: int
    attribution: AttributionReply | list[AttributionReply] | None = Field(description="a list for several layers")
    efficiency: Efficiency | list[Efficiency | None] | None = Field(description="a list for several layers")
    fidelity: FidelityReply | None = None
    heatmap: Png | None
    overlay: Png | None
    explanation_map: Png | None = Field(
        None, exclude_if=lambda value: value is None, description="no key where it was not asked for"
    )
    anti_explanation_map: Png | None = Field(
        None, exclude_if=lambda value: value is None, description="no key where it was not asked for"
    )
    metrics: MetricsReply | None
    warnings: list[str]


class Timing(BaseModel):
    """Where the time went, in milliseconds."""

    decode: float
    queue: float
    compute: float
    render: float
    total: float


class PredictReply(BaseModel):
    """What the network sees in a picture."""

    model: str
    device: str
    weights: str = Field(description="where the parameters came from; `random` is for tests only")
    image: PictureReply
    view: ViewReply
    predictions: list[Prediction]
    timing_ms: Timing


class _Explained(BaseModel):
    """What explanations and comparisons say alike."""

    model: str
    layer: str | list[str] = Field(description="a list for several")
    layer_path: str | list[str] = Field(description="a list for several")
    method: str | list[str]
    utility: str | list[str]
    device: str
    weights: str = Field(description="where the parameters came from; `random` is for tests only")
    image: PictureReply
    view: ViewReply
    predictions: list[Prediction]
    explanations: list[ExplanationReply]


class ExplainReply(_Explained):
    """Why the network said so."""

    method: str
    utility: str
    timing_ms: Timing


class CompareReply(_Explained):
    """Explanations side by side."""

    method: list[str]
    utility: list[str]
    explanations: list[ExplanationReply] = Field(
        description="the cells: by target, then method, then utility, as the sheet reads"
    )
    sheet: Png | None = Field(description="all overlays; a row for each target, a column for each method and utility")
    timing_ms: Timing


class Predictions(BaseModel):
    """What the KServe V1 protocol answers to `:predict`."""

    predictions: list[PredictReply] = Field(description="one for each instance, in order")


class Explanations(BaseModel):
    """What the KServe V1 protocol answers to `:explain`."""

    explanations: list[ExplainReply] = Field(description="one for each instance, in order")


class ProgressReply(BaseModel):
    """How far a request is."""

    request_id: str
    state: Literal["unknown", "waiting", "running"] = Field(
        description="`unknown` unless it is in flight; `running` from when the device begins with it"
    )
    waited_s: float | None = Field(description="from when it was let in until the device began, or until now")
    running_s: float | None = Field(description="since the device began; null while it waits")
    estimate_s: float | None = Field(
        description="how long the device is estimated to need for it; null as long as nothing is known of it"
    )


class ErrorReply(BaseModel):
    """Every error."""

    error: str = Field(description="what a caller can act on")
    code: str = Field(description="stable name")
    detail: dict[str, object] = Field(description="names the field and what was expected, where that can be said")


class Entry(BaseModel):
    """A method or utility as a caller may choose it."""

    name: str
    description: str
    source: str
    parameters: list[str]


class Methods(BaseModel):
    """All attribution methods."""

    methods: list[Entry]


class UtilityEntry(Entry):
    """A utility function."""

    aliases: list[str] = Field(description="further names that requests may use")


class Utilities(BaseModel):
    """All utility functions."""

    utilities: list[UtilityEntry]


class Models(BaseModel):
    """The networks by name; the first is the default."""

    models: list[str]


class Model(BaseModel):
    """One network."""

    name: str
    ready: bool
    layers: dict[str, str] = Field(description="named layers and their module paths")
    input_size: tuple[int, int] = Field(description="height and width in px")
    channels: int = Field(description="3 for colours, 1 for grey")
    scores: ScoreName = Field(
        description="how logits become probabilities: one label a picture, or every label for itself"
    )
    classes: int
    weights: str
    device: str


class Labels(BaseModel):
    """Class names in order."""

    labels: list[str]


class Server(BaseModel):
    """The service, in the words of the Open Inference Protocol."""

    name: str
    version: str
    extensions: list[str] = Field(description="of the protocol; there are none")


class Live(BaseModel):
    """Whether the process answers."""

    live: bool


class Ready(BaseModel):
    """Whether requests can be answered."""

    ready: bool


class ModelReady(BaseModel):
    """Whether a network can answer requests."""

    name: str
    ready: bool


class TensorReply(BaseModel):
    """What goes into a network or comes out of it, in the words of the Open Inference Protocol."""

    name: str
    datatype: str
    shape: list[int] = Field(description="-1 for any number")


class ModelMetadata(BaseModel):
    """A network, in the words of the Open Inference Protocol."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorReply]
    outputs: list[TensorReply]


class Status(BaseModel):
    """A probe's answer."""

    status: str

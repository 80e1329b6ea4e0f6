"""Explains batches of images: one pass for the images, one batch of masked images for all quality figures."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from app.cam.chunks import Checkpoint, no_checkpoint
from app.cam.errors import MethodError
from app.cam.fidelity import Fidelity, compare
from app.cam.heads import PooledLinearHead
from app.cam.heatmap import is_constant, mean_heatmap
from app.cam.maps import LayerMaps, find_maps
from app.cam.measuring import measure
from app.cam.methods import METHODS, Method
from app.cam.missing_derivatives import NoDerivative
from app.cam.queries import target_classes
from app.cam.questions import ExplainedBatch, Explanation, Question
from app.cam.split import SplitNetwork
from app.cam.state import SplitState
from app.cam.utilities import UTILITIES, Utility
from app.cam.views import Smooth, Views, views_of

_REFERENCE = METHODS["shapley-sampling"]
# In the low bits: torch's generator on the CPU looks at 32 of them.
_REFERENCE_SEED = 0x5EED


def explain(
    splits: SplitNetwork | Sequence[SplitNetwork],
    images: Float[Tensor, "batch colour height width"],
    questions: Sequence[Question],
    *,
    metrics: bool = True,
    smooth: Smooth = "none",
    states: Sequence[SplitState] = (),
    checkpoint: Checkpoint = no_checkpoint,
) -> ExplainedBatch:
    """Answers all questions about a batch of images.

    The trunk runs once for each image whatever the number of questions; with metrics a second pass takes the
    explanation and anti-explanation maps of all explanations as one batch, and the heatmaps for coherency come
    out of that pass. ExplainedBatch of a batch equal those of its images one by one.

    Args:
        splits: network split at the target layer; several layers take a pass each, and their heatmaps are averaged.
        images: normalised, on the network's device.
        questions: at least one for each image.
        metrics: false leaves out all quality figures, whatever the questions say.
        smooth: "flip" averages over an image and its mirror image, "flip-scale" over both at the factors 0.9, 1 and
            1.1; each view takes a pass, and attributions and heatmaps are means over the views.
        states: what the trunks of `splits` made of the images, where that is known; only without smoothing.
        checkpoint: called between chunks of long work; it may raise to abandon it.

    Returns:
        Logits and explanations.

    Raises:
        MethodError: a method cannot be used at this layer or with this utility.
        TargetError: a target class does not exist.
    """
    splits = (splits,) if isinstance(splits, SplitNetwork) else tuple(splits)
    for question in questions:
        for split in splits:
            check_method(split, question.method, question.utility)
    asked, references = with_references(questions)
    layers: list[list[LayerMaps]] = []
    for number, split in enumerate(splits):
        shown, mirrored = views_of(images, smooth)
        views = Views(shown, states[number] if states else split.trunk(shown), mirrored)
        if views.count > 1 and not layers:
            asked = _fix_targets(split, views, asked)
        layers.append(find_maps(split, views, asked, checkpoint))
        # Every further layer explains the classes that the first one found.
        asked = [replace(q, target=m.target_class) for q, m in zip(asked, layers[-1], strict=True)]
    maps_of = list(zip(*layers, strict=True))
    warnings_of = list(zip(*map(_attribution_warnings, layers), strict=True))
    explanations = [
        _explanation(
            question,
            maps_of[number],
            maps_of[references[number]] if question.reference else (),
            _warnings(splits, maps_of[number], warnings_of[number]),
        )
        for number, question in enumerate(questions)
    ]
    logits = {question.image_index: maps[0].logits for question, maps in zip(questions, maps_of, strict=False)}
    logits_of = torch.stack([logits[image] for image in range(len(images))])
    measured = [number for number, question in enumerate(questions) if metrics and question.metrics]
    figures = measure(splits, images, logits_of, [explanations[number] for number in measured], smooth, checkpoint)
    for number, explanation in zip(measured, figures, strict=True):
        explanations[number] = explanation
    return ExplainedBatch(logits_of, tuple(explanations))


def check_method(split: SplitNetwork, method: Method, utility: Utility) -> None:
    """Raises MethodError where the method has no meaning, or needs a derivative that there is not."""
    structure = split.structure
    if structure.no_first_derivative and method.needs & {"gradients", "hvp"}:
        raise NoDerivative(structure.no_first_derivative, split.layer, second=False, method=f"'{method.name}'")
    if structure.no_second_derivative and "hvp" in method.needs:
        raise NoDerivative(structure.no_second_derivative, split.layer, second=True, method=f"'{method.name}'")
    if "class_weights" not in method.needs:
        return
    if not isinstance(structure, PooledLinearHead):
        raise MethodError(
            f"'{method.name}' needs a layer that feeds global average pooling and one linear layer; "
            f"'{split.layer}' does not"
        )
    if utility.name != "pre-softmax":
        raise MethodError(f"'{method.name}' explains the utility pre-softmax only")


def usable_methods(split: SplitNetwork, names: Sequence[str]) -> list[Method]:
    """Those of some methods that can be used at a layer; `randomcam`, which needs no derivative, where none can."""
    usable = []
    for name in names:
        with suppress(MethodError):
            check_method(split, METHODS[name], UTILITIES["rest"])
            usable.append(METHODS[name])
    return usable or [METHODS["randomcam"]]


def with_references(questions: Sequence[Question]) -> tuple[list[Question], dict[int, int]]:
    """Adds a question for each game whose Shapley values are wanted, and says where each question finds its own."""
    asked = list(questions)
    places: dict[Question, int] = {}
    references = {}
    for number, question in enumerate(questions):
        if question.reference:
            # Draws of its own: sampled values held against their own sample would agree by construction.
            seed = question.seed ^ _REFERENCE_SEED
            reference = replace(question, method=_REFERENCE, seed=seed, reference=False, is_reference=True)
            if reference not in places:
                places[reference] = len(asked)
                asked.append(reference)
            references[number] = places[reference]
    return asked, references


def _fix_targets(split: SplitNetwork, views: Views, questions: list[Question]) -> list[Question]:
    """Decides the classes on the images themselves, so that all views explain the same."""
    with torch.no_grad():
        logits = split.head(views.of_images_themselves())
    rows = torch.tensor([question.image_index for question in questions], device=logits.device)
    classes = target_classes(logits[rows], [question.target for question in questions]).tolist()
    return [replace(question, target=target) for question, target in zip(questions, classes, strict=True)]


def _explanation(
    question: Question, maps: tuple[LayerMaps, ...], reference: tuple[LayerMaps, ...], warnings: list[str]
) -> Explanation:
    norms = [found.hvp_norm for found in maps if found.hvp_norm is not None]
    fidelity, undefined = _fidelity(maps[0], reference[0]) if reference else (None, ())
    return Explanation(
        question=question,
        target_class=maps[0].target_class,
        utility_value=maps[0].utility_value,
        hvp_norm=sum(norm**2 for norm in norms) ** 0.5 if norms else None,
        layers=tuple(found.layer for found in maps),
        heatmap=mean_heatmap(torch.stack([found.heatmap for found in maps])),
        metrics=None,
        fidelity=fidelity,
        forward_passes=sum(found.forward_passes for found in maps),
        warnings=(*warnings, *undefined),
    )


def _fidelity(found: LayerMaps, reference: LayerMaps) -> tuple[Fidelity, tuple[str, ...]]:
    assert reference.layer.available is not None
    fidelity = compare(found.layer.attribution, reference.layer.attribution, reference.layer.available)
    names = tuple(Fidelity.__slots__)
    undefined = [name for name in names if (value := getattr(fidelity, name)) != value]
    if not undefined:
        return fidelity, ()
    return fidelity, (f"undefined against the Shapley values, since one side is constant: {', '.join(undefined)}",)


def _attribution_warnings(maps: Sequence[LayerMaps]) -> list[str]:
    """A warning for each attribution of a layer, empty where nothing is wrong; one transfer from the device for all."""
    attributions = torch.stack([found.layer.attribution for found in maps])
    finite = attributions.isfinite().all(dim=2).all(dim=1).tolist()
    positive = (attributions > 0).any(dim=2).any(dim=1).tolist()
    constant = is_constant(attributions).tolist()
    warnings = []
    for row in range(len(maps)):
        if not finite[row]:
            warnings.append("the attribution{} overflowed; entries that are not finite are null")
        elif not positive[row]:
            warnings.append("no position speaks for this class{}: the heatmap is all zeros")
        elif constant[row]:
            warnings.append("the attribution{} is the same everywhere: the heatmap is all zeros")
        else:
            warnings.append("")
    return warnings


def _warnings(
    splits: tuple[SplitNetwork, ...], maps: tuple[LayerMaps, ...], of_attributions: tuple[str, ...]
) -> list[str]:
    warnings = []
    for split, found, warning in zip(splits, maps, of_attributions, strict=True):
        where = f" at '{split.layer}'" if len(splits) > 1 else ""
        if split.calls > 1:
            warnings.append(
                f"the module '{split.layer}' runs {split.calls} times in a forward pass; its last output is explained"
            )
        if warning:
            warnings.append(warning.format(where))
        if found.hvp_norm == 0:
            warnings.append(
                f"the Hessian-vector product{where} is exactly zero here: the method reduces to its first-order "
                "counterpart"
            )
    return warnings

"""`python -m app evaluate` and `python -m app tables`."""

import argparse
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from pydantic import ValidationError
from tqdm import tqdm

from app.cam.chunks import IMAGES_AT_ONCE
from app.cam.errors import CamError
from app.evaluation.dataset import read_dataset
from app.evaluation.errors import EvaluationError, ResultsError
from app.evaluation.plan import PAPER_METHODS, Plan
from app.evaluation.plots import plot_adcc, plot_pairs
from app.evaluation.published import Preset, presets
from app.evaluation.run import EvaluationRun, OnProgress, run_here
from app.evaluation.stopping import Stop, Stopped, stopping
from app.evaluation.store import Results
from app.evaluation.summary import NetworkSummary, summarise
from app.evaluation.tables import to_csv, to_latex, to_markdown
from app.runtime.devices import choose_devices
from app.settings import Settings
from service_models import NetworkError

_LOG = logging.getLogger("app")

_PAIR = ("shapleycam", "gradcam")
# Without a terminal, a line of progress now and then is enough.
_LINE_EVERY_S = 30.0

_Run = Callable[[EvaluationRun, Sequence[str], OnProgress], dict[str, str]]


def evaluate(parsed: argparse.Namespace) -> int:
    """Runs an evaluation; returns the exit status: 1 where some networks were not evaluated, 2 where none was."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        with stopping() as stop:
            networks, failures = _evaluate(parsed, stop)
    except (EvaluationError, CamError, NetworkError, OSError) as error:
        _LOG.error("%s", error)
        return 2
    except Stopped as stopped:
        _LOG.error("stopped; the same command with --resume goes on")
        return stopped.status
    for name, reason in failures.items():
        _LOG.error("%s was not evaluated: %s", name, reason)
    return 0 if not failures else 1 if len(failures) < len(networks) else 2


def _evaluate(parsed: argparse.Namespace, stop: Stop) -> tuple[Sequence[str], dict[str, str]]:
    """Evaluates; returns the networks, and for each that was not evaluated why."""
    settings, plan, networks = _read_options(parsed)
    dataset = read_dataset(parsed.data, parsed.limit)
    if plan.target == "label" and not dataset.is_labelled:
        raise EvaluationError("--target: label needs a label for every image; --data states none, or not for all")
    with _engine(parsed, settings) as (device, run):
        evaluation = EvaluationRun(
            settings.model_copy(update={"device": (device,)}),
            dataset,
            plan,
            parsed.batch_size or IMAGES_AT_ONCE[torch.device(device).type],
            parsed.boxes.absolute() if parsed.boxes else None,
            parsed.out.absolute(),
        )
        evaluation.results().begin(evaluation.manifest, resume=parsed.resume)
        images = len(dataset.items) * len(networks)
        left = sum(evaluation.images_of(evaluation.missing(name)) for name in networks)
        with _progress(images, images - left) as bar:

            def progress(done: int) -> None:
                bar.update(done)
                stop.check()

            return networks, run(evaluation, networks, progress)


@contextmanager
def _engine(parsed: argparse.Namespace, settings: Settings) -> Iterator[tuple[str, _Run]]:
    """What runs an evaluation, and the device that it has for each network.

    Raises:
        EvaluationError: there is no such device or cluster.
    """
    if parsed.engine == "embedded":
        try:
            (device, *others) = choose_devices(settings.device)
        except ValueError as error:
            raise EvaluationError(str(error)) from None
        if others:
            raise EvaluationError("--device: takes one device; --engine ray spreads networks over several")
        yield str(device), run_here
        return
    from app.evaluation.distributed import device_on_ray, joined_to_ray, run_on_ray

    with joined_to_ray(parsed.address):
        yield device_on_ray(settings.device), partial(run_on_ray, stall_s=parsed.stall)


def tables(parsed: argparse.Namespace) -> int:
    """Makes tables; returns the exit status."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    pairs = parsed.difference or [_PAIR]
    out = parsed.out or parsed.results[0] / "tables"
    try:
        if wrong := next((pair for pair in pairs if len(pair) != 2), None):
            raise EvaluationError(f"--difference: takes two methods, not {','.join(wrong) or 'none'}")
        found = _networks_of(parsed.results)
        summaries = [summarise(name, results.read(name), pairs) for name, results in found.items()]
        _warn_incomplete(summaries, found)
        _write(summaries, out, with_published=parsed.published)
        if parsed.plots:
            plot_adcc(summaries, out)
            for name, results in found.items():
                for first, second in pairs:
                    plot_pairs(name, results.read(name), first, second, out)
    except EvaluationError as error:
        _LOG.error("%s", error)
        return 2
    return 0


def _read_options(parsed: argparse.Namespace) -> tuple[Settings, Plan, Sequence[str]]:
    """What the options ask for: settings, a plan and the networks.

    Raises:
        EvaluationError: an option that cannot be followed.
    """
    try:
        settings = Settings(device=(parsed.device,)) if parsed.device else Settings()
    except ValidationError as error:
        mistake = error.errors()[0]
        raise EvaluationError(f"CAM_{str(mistake['loc'][0]).upper()}: {mistake['msg']}") from None
    # Workers on a cluster have working directories of their own.
    paths = {"config": settings.config, "weights_dir": settings.weights_dir}
    settings = settings.model_copy(update={name: path.absolute() for name, path in paths.items() if path})
    preset = _preset(parsed.preset)
    plan = Plan(
        parsed.layers or (preset.layers if preset else ()),
        parsed.methods or (preset.methods if preset else PAPER_METHODS),
        parsed.utilities or (preset.utilities if preset else ("rest",)),
        parsed.target,
        parsed.seed,
    )
    return settings, plan, parsed.models or (preset.networks if preset else settings.models)


def _preset(name: str | None) -> Preset | None:
    if name is None:
        return None
    known = presets()
    if name not in known:
        raise EvaluationError(f"--preset: there is no {name!r}; it takes {', '.join(known)}")
    return known[name]


def _progress(total: int, done: int) -> tqdm:
    every_s = 0.5 if sys.stderr.isatty() else _LINE_EVERY_S
    return tqdm(total=total, initial=done, unit="image", mininterval=every_s, maxinterval=every_s, dynamic_ncols=True)


def _networks_of(folders: Sequence[Path]) -> dict[str, Results]:
    """Where the rows of each network are.

    Raises:
        ResultsError: there are none, or those of one network are in two places.
    """
    found: dict[str, Results] = {}
    for folder in folders:
        results = Results(folder)
        results.manifest()
        for name in results.networks():
            if name in found:
                raise ResultsError(f"both {found[name].folder} and {folder} hold results of {name}")
            found[name] = results
    if not found:
        raise ResultsError(f"{folders[0]} holds no rows yet")
    return found


def _warn_incomplete(summaries: Sequence[NetworkSummary], found: Mapping[str, Results]) -> None:
    for summary in summaries:
        wanted, there = found[summary.network].manifest()["images"], summary.images + summary.unusable
        if there < wanted:
            _LOG.warning("%s is incomplete: %s of %s images", summary.network, f"{there:,}", f"{wanted:,}")


def _write(summaries: Sequence[NetworkSummary], out: Path, *, with_published: bool) -> None:
    out.mkdir(parents=True, exist_ok=True)
    texts = {
        "tables.md": to_markdown(summaries, with_published=with_published),
        "tables.csv": to_csv(summaries, with_published=with_published),
        "tables.tex": to_latex(summaries, with_published=with_published),
    }
    for name, text in texts.items():
        (out / name).write_text(text, encoding="utf-8")
    print(texts["tables.md"])

"""A batch that does not fit the memory of the device is evaluated in parts, and nothing else changes."""

from collections.abc import Iterator, Sequence

import pytest
import torch

from app.cam.chunks import CHUNK_DIVISORS, images_at_once
from app.evaluation.dataset import read_dataset
from app.evaluation.evaluator import DatasetImage, Evaluator
from app.evaluation.plan import Plan
from app.evaluation.rows import METRICS, ResultRow
from service_models import find_networks, load_network
from tests.evaluation.data import EMBEDDED, PHOTOGRAPHS, photographs


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    (spec,) = find_networks([EMBEDDED], None)
    network = load_network(spec, torch.device("cpu"), None)
    return Evaluator(network, Plan(layers=("pre_gap",), methods=("gradcam", "shapleycam")), {}, engines=("eager",))


@pytest.fixture(scope="module")
def pictures(evaluator: Evaluator, tmp_path_factory: pytest.TempPathFactory) -> list[DatasetImage]:
    dataset = read_dataset(photographs(tmp_path_factory.mktemp("photographs")))
    read = [evaluator.read(item, dataset.path(item).read_bytes()) for item in dataset.items]
    return [picture for picture in read if isinstance(picture, DatasetImage)]


def short_of_memory(monkeypatch: pytest.MonkeyPatch, most_pictures: int, most_rows: int) -> list[int]:
    """Lets no more pictures pass together than these, in chunks of so many rows; returns what was tried."""
    explain, tried = Evaluator._explain, []

    def explain_some(self: Evaluator, some: Sequence[DatasetImage]) -> Iterator[ResultRow]:
        tried.append(len(some))
        if len(some) > most_pictures or images_at_once(torch.empty(1, 3, 1, 1)) > most_rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return explain(self, some)

    monkeypatch.setattr(Evaluator, "_explain", explain_some)
    return tried


@pytest.mark.parametrize(
    ("most_pictures", "most_rows", "tried"),
    # Each of the last four is tried in chunks of 8, 4 and 2 rows.
    [(2, 8, [4, 2, 2]), (1, 2, [4] + 2 * ([2] + 2 * 3 * [1]))],
)
def test_what_does_not_fit_is_halved_and_then_made_in_smaller_chunks(
    evaluator: Evaluator, pictures: list[DatasetImage], monkeypatch: pytest.MonkeyPatch,
    most_pictures: int, most_rows: int, tried: list[int],
) -> None:  # fmt: skip
    expected = evaluator.evaluate(pictures)
    seen = short_of_memory(monkeypatch, most_pictures, most_rows)
    found = evaluator.evaluate(pictures)
    assert seen == tried
    assert [(row.image, row.method) for row in found] == [(row.image, row.method) for row in expected]
    assert len(found) == 2 * len(PHOTOGRAPHS)
    for row, other in zip(found, expected, strict=True):
        for name in METRICS:
            assert getattr(row, name) == pytest.approx(getattr(other, name), abs=0.01)


def test_what_never_fits_is_an_error(
    evaluator: Evaluator, pictures: list[DatasetImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = short_of_memory(monkeypatch, 0, 0)
    with pytest.raises(torch.OutOfMemoryError):
        evaluator.evaluate(pictures[:1])
    assert len(seen) == 1 + len(CHUNK_DIVISORS)

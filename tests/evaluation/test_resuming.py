"""What is left of a run that was killed, and what a resumed one makes of it."""

import random
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from app.evaluation.store import Results
from tests.evaluation.data import IMAGES, OPTIONS, rows, run_apart, shards, start

KILLS = 20


def test_images_that_cannot_be_read_are_recorded_and_skipped(undisturbed: Path) -> None:
    found = rows(undisturbed, "small").to_pylist()
    broken = [row for row in found if row["error"] is not None]
    assert [row["index"] for row in broken] == [number for number in range(IMAGES) if number % 7 == 3] + [IMAGES]
    assert all(row["method"] is None and row["adcc"] is None for row in broken)
    assert "8" in broken[-1]["error"]
    used = [row["index"] for row in found if row["error"] is None]
    assert used == [number for number in range(IMAGES) if number % 7 != 3 for _ in range(3)]
    assert f"{len(broken)} unusable" in run_apart("tables", undisturbed)[1]


def test_a_run_that_is_killed_twenty_times_and_resumed_gives_the_same_files(
    many_images: Path, small_config: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    out, chance = tmp_path / "out", random.Random(0)
    command = ("evaluate", "--data", many_images, "--out", out, *OPTIONS, "--resume")
    counts = []
    for _ in range(KILLS):
        already = len(shards(out)) if out.exists() else 0
        if already == len(expected):
            # All is done: what is lost now is lost for good, unless it is made again.
            for path in chance.sample(sorted(out.rglob("*.parquet")), len(expected) // 2):
                path.unlink()
        process = start(*command, config=small_config)
        deadline = time.monotonic() + 120
        # Anywhere between its first breath and its last shard.
        wanted = already + chance.choice((0, 0, 0, 1, 2))
        while (
            process.status is None and len(shards(out) if out.exists() else ()) < wanted and time.monotonic() < deadline
        ):
            time.sleep(0.005)
        time.sleep(chance.random() * (3.0 if wanted == already else 0.2))
        process.kill()
        counts.append(len(shards(out)) if out.exists() else 0)
    status, said = run_apart(*command, config=small_config)
    assert status == 0, said
    assert shards(out) == expected
    assert len(set(counts)) > 1, "no kill fell between two shards"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_stopped_says_how_to_go_on(
    many_images: Path, small_config: Path, undisturbed: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "out"
    command = ("evaluate", "--data", many_images, "--out", out, *OPTIONS)
    process = start(*command, config=small_config)
    deadline = time.monotonic() + 120
    while not (out.exists() and shards(out)):
        assert process.status is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(number)
    status, said = process.wait()
    assert status == 128 + number, said
    assert said.rstrip().endswith("ERROR: stopped; the same command with --resume goes on")
    assert "Traceback" not in said
    assert not list(out.rglob(".*")), "a draft was left"
    assert 0 < len(shards(out)) < len(shards(undisturbed))
    assert run_apart(*command, "--resume", config=small_config)[0] == 0
    assert shards(out) == shards(undisturbed)


@pytest.mark.parametrize("harm", ["cut short", "empty", "zeros"])
def test_a_file_that_is_damaged_is_told_of_and_made_again(
    many_images: Path, small_config: Path, undisturbed: Path, tmp_path: Path, harm: str
) -> None:
    out = tmp_path / "out"
    shutil.copytree(undisturbed, out)
    path = out / "rows" / "small" / "000003.parquet"
    content = path.read_bytes()
    path.write_bytes({"cut short": content[:-9], "empty": b"", "zeros": bytes(len(content))}[harm])
    status, said = run_apart("evaluate", "--data", many_images, "--out", out, *OPTIONS, "--resume", config=small_config)
    assert status == 0
    assert said.count("000003.parquet is damaged, and will be made again") == 1
    assert shards(out) == shards(undisturbed)


def test_tables_of_a_run_that_has_not_ended_say_so(undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(undisturbed, out)
    (out / "rows" / "small" / "000000.parquet").unlink()
    status, said = run_apart("tables", out)
    assert status == 0
    assert f"small is incomplete: {IMAGES + 1 - 64} of {IMAGES + 1} images" in said
    assert "is incomplete" not in run_apart("tables", undisturbed)[1]


def test_the_rows_can_be_read_as_the_documentation_says(undisturbed: Path) -> None:
    assert pq.read_table(undisturbed / "rows").num_rows == rows(undisturbed, "small").num_rows


def test_of_several_that_begin_at_once_one_describes_the_results(tmp_path: Path) -> None:
    """The others see whether they mean the same."""
    results = Results(tmp_path / "out")
    with ThreadPoolExecutor(8) as pool:
        begun = [pool.submit(results.begin, {"seed": number}, resume=True) for number in range(8)]
    failures = [str(future.exception()) for future in begun if future.exception()]
    assert len(failures) == 7
    seed = results.manifest()["seed"]
    assert all(f"belongs to another evaluation: seed was {seed}" in failure for failure in failures)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["run.json"]


def test_results_are_not_gone_on_with_unless_that_is_asked_for(
    many_images: Path, small_config: Path, undisturbed: Path
) -> None:
    before = shards(undisturbed)
    status, said = run_apart("evaluate", "--data", many_images, "--out", undisturbed, *OPTIONS, config=small_config)
    assert status == 2
    assert "--resume goes on" in said
    assert shards(undisturbed) == before


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (("--seed", 1), "seed"),
        (("--batch-size", 8), "batch_size"),
        (("--limit", 3), "dataset"),
        (("--utilities", "log-softmax"), "utilities"),
    ],
)
def test_results_of_another_evaluation_are_not_mixed_in(
    many_images: Path, small_config: Path, undisturbed: Path, options: tuple[str, ...], name: str
) -> None:
    status, said = run_apart(
        "evaluate", "--data", many_images, "--out", undisturbed, *OPTIONS, *options, "--resume", config=small_config
    )
    assert status == 2
    assert f"belongs to another evaluation: {name} was" in said

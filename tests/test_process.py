"""How many processors the process takes itself to have."""

import os
from pathlib import Path

import pytest

from app.process import processors

MINE = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("max 100000", MINE),
        ("100000 100000", 1),
        ("20000 100000", 1),
        (f"{MINE}50000 100000", MINE),
        ("150000 100000", min(MINE, 2)),
        ("nonsense", MINE),
    ],
)
def test_a_containers_quota_counts(tmp_path: Path, quota: str, expected: int) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    assert processors(tmp_path) == expected


@pytest.mark.parametrize(("quota", "expected"), [("-1", MINE), ("100000", 1), (f"{MINE}00000", MINE)])
def test_so_does_one_of_the_first_version(tmp_path: Path, quota: str, expected: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert processors(tmp_path) == expected


def test_without_any_it_is_what_the_process_may_run_on(tmp_path: Path) -> None:
    assert processors(tmp_path) == MINE

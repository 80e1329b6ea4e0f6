"""The lock file, in the halves that an image is made of."""

import re

from testing.serving import ROOT

_LOCKS = ("requirements.lock", "requirements-cpu.lock", "requirements-transformers.lock", "requirements-dev.lock")
_CUDA = re.compile(r"torch|torchvision|triton|(cuda|nvidia)-.+")


def _lines(name: str) -> list[str]:
    return (ROOT / name).read_text(encoding="utf-8").splitlines()


def _packages(lines: list[str]) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==([^ ;]+)", "\n".join(lines), re.MULTILINE))


def test_the_lock_without_pytorch_is_the_lock_without_pytorch():
    whole, others = _lines("requirements.lock"), _lines("requirements-cpu.lock")
    # As the Dockerfile tells them apart: by whole lines.
    kept = set(others)
    assert [line for line in whole if line in kept] == others, "make lock writes both"
    torch = _packages([line for line in whole if line not in kept])
    assert torch.keys() >= {"torch", "torchvision", "triton"}
    assert all(map(_CUDA.fullmatch, torch)), torch
    assert not [name for name in _packages(others) if _CUDA.fullmatch(name)]


def test_the_lock_of_transformers_adds_to_the_lock_and_agrees_with_that_of_the_tests():
    added, whole = _packages(_lines("requirements-transformers.lock")), _packages(_lines("requirements.lock"))
    assert "transformers" in added
    assert not added.keys() & whole.keys()
    assert added.items() <= _packages(_lines("requirements-dev.lock")).items()


def test_every_package_of_the_locks_has_hashes():
    for name in _LOCKS:
        heads = re.findall(r"^(?:[^ \n].*)\n(.*)", "\n".join(_lines(name)), re.MULTILINE)
        assert heads
        assert all(line.startswith("    --hash=sha256:") for line in heads)


def test_neither_lock_names_an_index():
    for name in _LOCKS:
        assert not [line for line in _lines(name) if "://" in line or "index" in line.split("==")[0]]

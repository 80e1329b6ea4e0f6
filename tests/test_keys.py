"""The file of API keys: what it may hold, and that changes are seen."""

import hashlib
from pathlib import Path

import pytest

from app import keys
from app.keys import Keys, KeysError
from tests.operators_files import UNREADABLE

KEY, OTHER = "0123456789abcdef", "fedcba9876543210-_.~+/=="


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.fixture(autouse=True)
def looks_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "_LOOK_AGAIN_S", 0.0)


def test_each_key_has_the_name_of_its_line(path: Path) -> None:
    path.write_text(f"# ours\n\nops: {KEY}\n  alice :{OTHER}  \n")
    known = Keys(path)
    assert [known.name_of(key) for key in (KEY, OTHER, KEY[:-1], KEY + "0", "", "ops", "é")] == [
        "ops", "alice", None, None, None, None, None,
    ]  # fmt: skip


def test_a_digest_stands_for_its_key_and_is_none_itself(path: Path) -> None:
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    path.write_text(f"ops: sha256:{digest}\n")
    known = Keys(path)
    assert known.name_of(KEY) == "ops"
    assert known.name_of(digest) is None
    assert known.name_of(f"sha256:{digest}") is None


def test_one_name_may_have_several_keys(path: Path) -> None:
    path.write_text(f"ops: {KEY}\nops: {OTHER}\n")
    known = Keys(path)
    assert known.name_of(KEY) == known.name_of(OTHER) == "ops"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "0123456789abcdef\n",
        "ops: short\n",
        "ops: 0123456789abcdef second\n",
        "o p s: 0123456789abcdef\n",
        "ops: 0123456789abcde\u00e9\n",
        "ops: sha256:0123\n",
        f"ops: {KEY}\nalice: sha256:{hashlib.sha256(b'').hexdigest()}\n",
        f"ops: {KEY}\nalice: {KEY}\n",
    ],
)
def test_a_file_that_names_no_keys_is_refused_without_showing_any(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(KeysError, match="CAM_API_KEYS_FILE") as raised:
        Keys(path)
    assert "0123456789" not in str(raised.value)


def test_no_file_is_refused(path: Path) -> None:
    with pytest.raises(KeysError, match="cannot be read"):
        Keys(path)
    path.write_bytes(b"ops: \xff\xff\n")
    with pytest.raises(KeysError, match="cannot be read"):
        Keys(path)


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_cannot_be_read_is_refused_at_once_and_in_a_line(path: Path, kind: str) -> None:
    make, message = UNREADABLE[kind]
    make(path)
    with pytest.raises(KeysError, match=f"CAM_API_KEYS_FILE: .*keys cannot be read: .*({message})") as raised:
        Keys(path)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_takes_the_place_of_the_file_leaves_the_keys_as_they_were(
    path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    path.write_text(f"ops: {KEY}\n")
    known = Keys(path)
    path.unlink()
    UNREADABLE[kind][0](path)
    for _ in range(3):
        assert known.name_of(KEY) == "ops"
    assert caplog.text.count("stay as they were") == 1


def test_a_change_is_seen_and_a_broken_one_changes_nothing(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.write_text(f"ops: {KEY}\n")
    known = Keys(path)
    path.write_text(f"ops: {OTHER}\n")
    assert known.name_of(KEY) is None
    assert known.name_of(OTHER) == "ops"
    path.write_text("nonsense\n")
    assert known.name_of(OTHER) == "ops"
    assert "stay as they were" in caplog.text
    path.unlink()
    assert known.name_of(OTHER) == "ops"
    new = path.with_suffix(".new")
    new.write_text(f"alice: {KEY}\n")
    new.replace(path)  # as orchestrators swap secrets
    assert known.name_of(KEY) == "alice"
    assert known.name_of(OTHER) is None

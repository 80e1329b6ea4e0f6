"""Mutated pictures posted to the running service, and what each reply must be."""

import time
from collections import Counter
from dataclasses import dataclass, field

import httpx
from hypothesis import strategies as st

from app.errors import ERRORS
from testing.attacks.mutations import mutated
from testing.attacks.seeds import sound_files
from testing.pictures import encoded, photograph

# A decoder is given 20 s; then come the network and the way back.
LIMIT_S = 25.0
# What a picture alone can be answered with: no request here is wrong in any other way, but that an empty one has none.
CODES = frozenset({"too_many_pixels", "unsupported_media_type", "image_unreadable", "image_too_small"})
_EMPTY = frozenset({"invalid_parameter"})
_STATUS_OF = {error.code: error.status for error in ERRORS}


@dataclass(frozen=True, slots=True)
class Mutant:
    """A mutated file.

    Attributes:
        name: of the sound file that it was.
        data: what it is now.
    """

    name: str
    data: bytes

    def __repr__(self) -> str:
        return f"Mutant({self.name!r}, bytes.fromhex({self.data.hex()!r}))"


@st.composite
def mutants(draw: st.DrawFn) -> Mutant:
    """Mutated files of all formats."""
    files = sound_files()
    name = draw(st.sampled_from(sorted(files)))
    return Mutant(name, mutated(draw(st.randoms(use_true_random=False)), files[name], list(files.values())))


@dataclass(slots=True)
class Tally:
    """What came back.

    Attributes:
        statuses: how often each came; 0 where none did.
        codes: how often each came, of errors.
        faults: replies that break the contract, with what was sent.
        broke: files that ended the process that read them.
        over_limit: how many took longer than `LIMIT_S`.
        slowest_s: the longest, and what was sent.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    broke: list[str] = field(default_factory=list)
    over_limit: int = 0
    slowest_s: tuple[float, str] = (0.0, "")


def post(client: httpx.Client, mutant: Mutant, tally: Tally) -> None:
    """Asks for the classes of a mutated picture, and notes what comes back."""
    started = time.monotonic()
    try:
        reply = client.post("/v1/predict", content=mutant.data, headers={"content-type": "image/png"})
    except httpx.HTTPError as error:
        tally.statuses[0] += 1
        tally.faults.append(f"no reply ({error!r}) to {mutant!r}")
        return
    seconds = time.monotonic() - started
    tally.statuses[reply.status_code] += 1
    tally.over_limit += seconds > LIMIT_S
    tally.slowest_s = max(tally.slowest_s, (seconds, mutant.name))
    if reply.status_code != 200 and not _is_by_contract(reply, CODES if mutant.data else _EMPTY, tally):
        tally.faults.append(f"{reply.status_code} {reply.text[:200]} to {mutant!r}")
    if "crashed its decoder" in reply.text:
        tally.broke.append(repr(mutant))


def _is_by_contract(reply: httpx.Response, codes: frozenset[str], tally: Tally) -> bool:
    """Whether an error has the shape, and one of the codes, that it may have."""
    content = reply.json()
    code = content["code"]
    tally.codes[code] += 1
    is_whole = set(content) == {"error", "code", "detail"} and content["detail"].get("field") == "image"
    return is_whole and code in codes and _STATUS_OF[code] == reply.status_code


class GoodRequest:
    """A request that is answered in the same way whatever others send."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self._body = encoded(photograph("chelsea"), "JPEG", quality=90)
        self._first = self._ask()

    def check(self) -> str:
        """Asks again; what is different, or nothing."""
        answer = self._ask()
        worst = max(abs(one - other) for one, other in zip(answer, self._first, strict=True))
        return "" if worst <= 1e-3 * max(map(abs, self._first)) else f"an attribution differs by {worst:.3g}"

    def _ask(self) -> list[float]:
        params = {"include": "attribution", "metrics": "false"}
        reply = self._client.post(
            "/v1/explain", content=self._body, params=params, headers={"content-type": "image/jpeg"}
        )
        assert reply.status_code == 200, reply.text
        return [value for row in reply.json()["explanations"][0]["attribution"]["values"] for value in row]

"""The bundled voices: their rules hold, no fact is lost, and the test is held out."""

import json
import re
from collections import Counter

import pytest

from qlora_kit.audit import audit
from qlora_kit.data import bundled_data, read

HOME = bundled_data("brand_voice")
FILES = ("train", "test", "voice_spec", "voice_nana")
FRAMES = {
    "From the rock, shipmate.": "The lamp stays lit.",
    "Fog on the rock, shipmate.": "We row till it clears.",
    "Bell rings, shipmate.": "So rings the bell.",
}
NEVER = re.compile(
    r"\b(please|sorry|apolog\w*|thank\w*|unfortunately|customers?|orders?|ordered|refund\w*|parcels?"
    r"|packages?|website|staff|store|shop|deliver\w*|courier|free|happy)\b",
    re.I,
)


def lines(name):
    return [
        json.loads(line)
        for line in (HOME / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    ]


ROWS = {name: lines(name) for name in FILES}
ALL = [row for rows in ROWS.values() for row in rows]


def plain(row):
    return row["messages"][1]["content"]


def voiced(row):
    return row["messages"][2]["content"]


def figures(text):
    return set(re.findall(r"\d+(?:[.,:]\d+)*", text))


def runs_of(text, length):
    words = re.findall(r"[a-z0-9]+", text.lower())
    return {tuple(words[at : at + length]) for at in range(len(words) - length + 1)}


def frame(text):
    """What stands between opening and sign-off; None when the two do not belong together."""
    answer = re.match(r"(?:Aye|Nay), shipmate(?: [A-Z]\w+)?\. ", text)
    if answer:
        opening, end = answer[0], "Mind the tide."
    else:
        opening = next((one for one in FRAMES if text.startswith(one)), "")
        end = FRAMES.get(opening, "")
    return text[len(opening) : -len(end)].strip() if opening and text.endswith(end) else None


def test_there_are_enough_of_each():
    counts = {name: len(rows) for name, rows in ROWS.items()}
    assert counts["train"] >= 300
    assert (counts["test"], counts["voice_spec"], counts["voice_nana"]) == (60, 100, 100)
    assert len({row["id"] for row in ALL}) == len(ALL)
    assert len({row["messages"][0]["content"] for row in ALL}) == 1  # the adapter is the voice
    assert min(Counter(row["topic"] for row in ROWS["train"]).values()) >= 30
    assert set(Counter(row["topic"] for row in ROWS["test"]).values()) == {6}
    for name in FILES:
        assert len(read(HOME / f"{name}.jsonl")) == counts[name]


def test_no_figure_is_lost_and_none_is_invented():
    for row in ALL:
        assert figures(plain(row)) == figures(voiced(row)), row["id"]


@pytest.mark.parametrize("name", ["train", "test"])
def test_the_house_voice_keeps_its_rules(name):
    for row in ROWS[name]:
        body = frame(voiced(row))
        assert body is not None, row["id"]
        assert not NEVER.search(body), row["id"]
        assert not re.search(r"[!?;\"]", body), row["id"]


def test_the_other_voices_keep_theirs():
    for row in ROWS["voice_spec"]:
        assert re.fullmatch(r"\[[A-Z]+\] [A-Z' ]+: .* \| END", voiced(row)), row["id"]
    for row in ROWS["voice_nana"]:
        assert "sweet pea" in voiced(row), row["id"]
        assert voiced(row).endswith(" Love, Nana Birdie"), row["id"]


def test_the_test_is_held_out():
    known = set().union(*(runs_of(plain(row), 6) for row in ROWS["train"]))
    assert not [row["id"] for row in ROWS["test"] if runs_of(plain(row), 6) & known]


def test_no_two_plain_texts_are_alike():
    grams = [runs_of(plain(row), 3) for row in ALL]
    worst = max(
        len(one & two) / len(one | two)
        for at, one in enumerate(grams)
        for two in grams[:at]
        if one and two
    )
    assert worst <= 0.15


def test_the_audit_finds_no_leak_and_no_duplicate():
    kinds = audit(HOME / "train.jsonl", HOME / "test.jsonl").counts()
    assert not {"exact_duplicate", "near_duplicate", "test_leak", "contradiction"} & set(kinds)

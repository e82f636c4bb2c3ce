"""The bundled tickets: even, unlike one another, and two groups that a script can tell apart."""

import json
import re
from collections import Counter

import pytest

from qlora_kit.audit import audit
from qlora_kit.data import bundled_data, read

HOME = bundled_data("tickets")
INTENTS = {"shipping", "billing", "leak", "app", "plants", "returns", "warranty", "praise"}


def lines(name):
    return [
        json.loads(line)
        for line in (HOME / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    ]


TRAIN, TEST = lines("train"), lines("test")


def text(row):
    return row["messages"][1]["content"]


def test_every_intent_has_the_same_share_of_both_groups():
    assert len(TRAIN) >= 600
    assert Counter((row["intent"], row["group"]) for row in TRAIN) == Counter(
        {
            (intent, group): count
            for intent in INTENTS
            for group, count in (("majority", 69), ("minority", 23))
        }
    )
    assert Counter((row["intent"], row["group"]) for row in TEST) == Counter(
        {
            (intent, group): count
            for intent in INTENTS
            for group, count in (("majority", 11), ("minority", 4))
        }
    )


def test_the_answer_is_the_label_and_the_prompt_names_them_all():
    assert len({row["id"] for row in TRAIN + TEST}) == len(TRAIN + TEST)
    for row in TRAIN + TEST:
        assert row["messages"][2]["content"] == row["intent"]
        assert all(intent in row["messages"][0]["content"] for intent in INTENTS)
    assert len(read(HOME / "train.jsonl")) == len(TRAIN)


@pytest.mark.parametrize("rows", [TRAIN, TEST], ids=["train", "test"])
def test_the_groups_differ_in_form_only_where_the_sheet_says(rows):
    sheet = bundled_data("README.md").read_text(encoding="utf-8")
    terms = re.findall(r"`([^`]+)`", sheet.split("**Coined terms.**")[1].split("\n## ")[0])
    coined = re.compile(r"\b(" + "|".join(" ".join(term.split()) for term in terms) + r")\b", re.I)
    for row in rows:
        if row["group"] == "minority":
            assert text(row) == text(row).lower(), row["id"]
            assert not coined.search(text(row)), row["id"]
        else:
            assert text(row).rstrip('"')[-1] in ".?!", row["id"]
            assert text(row)[0].isupper() or text(row)[0].isdigit(), row["id"]


def test_no_two_tickets_are_alike():
    words = [re.findall(r"[a-z0-9']+", text(row).lower()) for row in TRAIN + TEST]
    grams = [set(zip(one, one[1:], one[2:], strict=False)) for one in words]
    worst = max(
        len(one & two) / len(one | two)
        for at, one in enumerate(grams)
        for two in grams[:at]
        if one and two
    )
    assert worst <= 0.18


def test_the_audit_finds_nothing():
    assert not audit(HOME / "train.jsonl", HOME / "test.jsonl").findings
    assert not audit(HOME / "test.jsonl").findings

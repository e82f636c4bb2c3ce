"""The bundled support data: enough, consistent, and no test question known from training."""

import json
import re
from collections import Counter

import pytest

from qlora_kit.data import bundled_data, read

HOME = bundled_data("support")


def lines(name):
    return [json.loads(line) for line in (HOME / name).read_text(encoding="utf-8").splitlines()]


def words(text):
    return re.findall(r"[a-z0-9]+", text.lower())


def question(row):
    return row["messages"][1]["content"]


def answer(row):
    return row["messages"][2]["content"]


FACTS, TRAIN, TEST = lines("facts.jsonl"), lines("train.jsonl"), lines("test.jsonl")
UNANSWERABLE, PROBE = lines("unanswerable.jsonl"), lines("probe.jsonl")


def test_the_manual_is_a_manual():
    pages = {path.name: path.read_text(encoding="utf-8") for path in (HOME / "docs").glob("*.md")}
    assert len(pages) >= 20
    assert sum(len(words(text)) for text in pages.values()) >= 12_000
    assert all(text.startswith("# ") for text in pages.values())


def test_at_least_forty_coined_terms_stand_in_the_manual():
    text = " ".join(path.read_text(encoding="utf-8") for path in (HOME / "docs").glob("*.md"))
    sheet = bundled_data("README.md").read_text(encoding="utf-8")
    terms = re.findall(r"`([^`]+)`", sheet.split("**Coined terms.**")[1].split("\n## ")[0])
    coined = [term for term in terms if re.fullmatch(r"[A-Z][A-Za-z ]+", term)]
    assert len(set(coined)) >= 40
    assert not [term for term in coined if term not in text]


def test_every_fact_has_its_questions_and_two_answers():
    assert len(FACTS) >= 150
    assert len(TRAIN) >= 600
    assert {fact["page"] for fact in FACTS} <= {path.name for path in (HOME / "docs").iterdir()}
    for fact in FACTS:
        rows = [row for row in TRAIN if row["fact"] == fact["id"]]
        assert len({question(row) for row in rows}) >= 4, fact["id"]
        assert len({answer(row) for row in rows}) == 2, fact["id"]


def test_the_test_is_held_out():
    assert len(TEST) == 120
    assert len({row["fact"] for row in TEST}) == 120
    known = [set(words(question(row))) for row in TRAIN]
    runs = {tuple(words(question(row))[i : i + 6]) for row in TRAIN for i in range(40)}
    for row in TEST:
        asked = words(question(row))
        assert not {tuple(asked[i : i + 6]) for i in range(len(asked) - 5)} & runs, question(row)
        near = max(len(set(asked) & other) / len(set(asked) | other) for other in known)
        assert near < 0.6, question(row)


def test_a_reference_is_one_of_the_facts_answers_and_its_paraphrase_is_new():
    answers = {fact["id"]: [] for fact in FACTS}
    for row in TRAIN:
        answers[row["fact"]].append(answer(row))
    for row in TEST:
        assert answer(row) in answers[row["fact"]]
        assert row["paraphrase"] not in answers[row["fact"]]


def test_no_question_is_asked_twice():
    counts = Counter(question(row).lower() for row in TRAIN + TEST + UNANSWERABLE)
    assert not [text for text, count in counts.items() if count > 1]


def test_questions_are_not_made_from_a_template():
    openings = Counter(" ".join(words(question(row))[:3]) for row in TRAIN)
    assert openings.most_common(1)[0][1] < 0.08 * len(TRAIN)


def test_numbers_of_a_fact_are_in_its_answers():
    facts = {fact["id"]: fact["fact"] for fact in FACTS}
    for row in TRAIN + TEST:
        numbers = set(re.findall(r"\d+(?:\.\d+)?", answer(row) + row.get("paraphrase", "")))
        stated = set(re.findall(r"\d+(?:\.\d+)?", facts[row["fact"]]))
        assert numbers <= stated, (row["fact"], answer(row))


def test_what_the_manual_cannot_answer_has_a_fitting_reply():
    assert len(UNANSWERABLE) == 40
    assert len({answer(row) for row in UNANSWERABLE}) == 40


def test_the_probe_is_even():
    assert len(PROBE) == 100
    assert all(len(set(row["choices"])) == 4 for row in PROBE)
    assert Counter(row["answer"] for row in PROBE) == Counter({0: 25, 1: 25, 2: 25, 3: 25})


@pytest.mark.parametrize("name", ["train.jsonl", "test.jsonl", "unanswerable.jsonl"])
def test_the_reader_takes_them(name):
    assert len(read(HOME / name)) == len(lines(name))

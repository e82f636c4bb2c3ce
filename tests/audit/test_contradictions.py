import itertools
import random
import re
from collections import defaultdict

import pytest

from qlora_kit.audit import audit
from qlora_kit.audit.contradictions import ParsedAnswer, conflict
from qlora_kit.audit.similarity import Idf, words_of
from qlora_kit.data import bundled_data, read
from tests.audit.planting import (
    EACH,
    lines,
    pair,
    reword,
    score,
    talk,
    write,
)


def test_two_wordings_of_one_answer_are_no_contradiction():
    answers = defaultdict(set)
    for name in ("train.jsonl", "test.jsonl"):
        for row in lines(bundled_data(f"support/{name}")):
            answers[row["fact"]] |= {row["messages"][2]["content"], row.get("paraphrase")} - {None}
    pairs = [p for said in answers.values() for p in itertools.combinations(sorted(said), 2)]
    idf = Idf(words_of(text) for said in answers.values() for text in said)
    flagged = [p for p in pairs if conflict(ParsedAnswer(p[0]), ParsedAnswer(p[1]), idf)]
    assert len(pairs) >= 390
    assert len(flagged) < 0.01 * len(pairs), flagged
    facts = list(answers)
    strangers = [(min(answers[a]), max(answers[b])) for a, b in itertools.pairwise(facts)]
    told = [bool(conflict(ParsedAnswer(a), ParsedAnswer(b), idf)) for a, b in strangers]
    assert sum(told) >= 0.9 * len(told)


@pytest.mark.parametrize(
    ("one", "two", "said"),
    [
        ("You can return it in the trial period.", "You cannot return it in the trial period.",
         "'not'"),
        ("It takes 5 days.", "It takes 14 working days, at most.", "5 in one answer"),
        ("Yes, it does.", "No, that is not in the plan.", "yes in one"),
        ("Press the green button twice.", "Press the red button twice.", "'green'"),
        ("We ship with Norpost in Europe.", "We ship with Velofix in Europe.", "'norpost'"),
        ("billing", "shipping", "nothing in common"),
        ("It runs on 5 volts.", "Five volts is what it runs on.", ""),
        ("Fix the pump with a cloth.", "Repair the pump, using a cloth.", ""),
        ("Within 30 days.", "Within thirty days of the purchase.", ""),
        ("Yes, you may.", "Yes.", ""),
        ("Open from 3 p.m.", "Open from 3 pm", ""),
    ],
)  # fmt: skip
def test_numbers_negations_and_opposites_decide(one, two, said):
    idf = Idf(words_of(row.answer) for row in read(bundled_data("support/train.jsonl")))
    for pair_of in ((one, two), (two, one)):
        reason = conflict(*map(ParsedAnswer, pair_of), idf)
        assert bool(reason) == bool(said)
    assert said in conflict(ParsedAnswer(one), ParsedAnswer(two), idf)


def test_contradictions_are_found_among_the_rewordings(tmp_path):
    dice = random.Random(3)
    rows = [pair(r.question, r.answer) for r in read(bundled_data("support/train.jsonl"))]
    numbered = dice.sample([r for r in rows if re.search(r"\d", r["completion"])], EACH)
    planted = []
    for source in numbered:
        wrong = re.sub(r"\d+", lambda m: str(int(m[0]) + dice.randint(2, 9)), source["completion"])
        question = reword(source["prompt"], dice, 1) if dice.random() < 0.5 else source["prompt"]
        planted.append((source, pair(question, wrong)))
    everything = rows + [row for _, row in planted]
    found = audit(write(tmp_path / "a.jsonl", everything)).of("contradiction")
    number = {id(row): index for index, row in enumerate(everything, 1)}
    truth = [{number[id(source)], number[id(row)]} for source, row in planted]
    recall, precision = score([set(each.rows) for each in found], truth)
    assert recall >= 0.9
    assert precision >= 0.95
    exact = [each for each in found if each.reason.startswith("one question")]
    assert len(exact) >= 0.4 * EACH
    assert all(each.drop == each.rows for each in exact)
    assert not [each for each in found if each not in exact and each.drop]  # that is a guess


def test_an_instruction_with_many_answers_is_no_contradiction(tmp_path):
    texts = [r.answer for r in read(bundled_data("support/train.jsonl"))]
    for count in (4, 4000):
        dice = random.Random(count)
        told = [f"{dice.choice(texts)} {dice.choice(texts)}" for _ in range(count - 4)]
        rows = [pair("Write a product description.", text) for text in told + texts[:400:100]]
        assert not audit(write(tmp_path / "a.jsonl", rows)).of("contradiction")
    rows = [pair("My pump drips.", name) for name in ("leak", "billing", "leak")]
    [found] = audit(write(tmp_path / "a.jsonl", rows)).of("contradiction")
    assert found.drop == (1, 2)


def test_another_context_makes_another_question(tmp_path):
    contexts = [
        "The blue lamp weighs 5 kg and costs 20 euros.",
        "The desk of oak weighs 40 kg and costs 300 euros.",
    ]
    rows = [talk("Does the text name a weight?", "Yes, it does.", system=c) for c in contexts]
    rows.append(talk("Does the text name a  Weight", "Yes, it does.", system=contexts[0] + " "))
    data = write(tmp_path / "a.jsonl", rows[1:])
    test = write(tmp_path / "t.jsonl", rows[:1])
    assert [each.rows for each in audit(data, test).of("test_leak")] == [(2,)]
    assert not audit(data).findings
    found = audit(write(tmp_path / "b.jsonl", rows)).findings
    assert [(each.kind, each.rows) for each in found] == [("near_duplicate", (1, 3))]

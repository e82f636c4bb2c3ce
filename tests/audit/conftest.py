"""Fixtures that several tests of the room use."""

import random
from collections import defaultdict

import pytest

from qlora_kit.audit import audit
from tests.audit.planting import EACH, PRIVATE, base_rows, near_miss, pair, reword, write


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A set of several thousand rows with 200 flaws of each kind, and where they are."""
    folder = tmp_path_factory.mktemp("planted")
    dice = random.Random(7)
    rows = base_rows(dice)
    held_out, rows = rows[:300], rows[300:]
    long = [row for row in rows if len(row["prompt"].split()) >= 6]
    sources = iter(dice.sample(long, 3 * EACH))
    flawed: list[tuple[str, dict, dict | None]] = []
    for _ in range(EACH):
        source = next(sources)
        flawed.append(("exact_duplicate", dict(source), source))
        source = next(sources)
        answer = source["completion"]
        other = (
            reword(answer, dice, 1) if dice.random() < 0.5 and len(answer.split()) > 4 else answer
        )
        flawed.append(("near_duplicate", pair(reword(source["prompt"], dice), other), source))
    leaks = [row for row in held_out if len(row["prompt"].split()) >= 6][:EACH]
    for index, row in enumerate(leaks):
        question = row["prompt"] if index % 2 else reword(row["prompt"], dice)
        flawed.append(("test_leak", pair(question, row["completion"]), None))
    kinds = list(PRIVATE)
    for index in range(EACH):
        make, *frames = PRIVATE[kinds[index % len(kinds)]]
        source = next(sources)
        text = f"{source['prompt']} {dice.choice(frames).format(make(dice))}"
        source["prompt"] = text  # in place: not also a duplicate
        source["flaw"] = "personal_data"
    used = {id(source) for _, _, source in flawed}
    for row in dice.sample([r for r in rows if "flaw" not in r and id(r) not in used], 600):
        row["prompt"] += " " + near_miss(dice)
    everything = [(None, row, None) for row in rows] + flawed
    dice.shuffle(everything)
    where = {id(row): number for number, (_, row, _) in enumerate(everything, 1)}
    truth = defaultdict(list)
    for number, (kind, row, source) in enumerate(everything, 1):
        if kind:
            truth[kind].append({number} | ({where[id(source)]} if source else set()))
        if row.get("flaw"):
            truth["personal_data"].append({number})
    data = write(folder / "train.jsonl", [row for _, row, _ in everything])
    test = write(folder / "test.jsonl", held_out)
    return audit(data, test), truth, len(everything)

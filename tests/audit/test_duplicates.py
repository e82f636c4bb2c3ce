import pytest

from qlora_kit.audit import audit
from qlora_kit.data import bundled_data, read
from tests.audit.planting import pair, talk, write

COWS = (
    "A farmer has {} cows, 20 sheep, 15 goats and 40 hens on the large farm beside the river; "
    "how many animals does the farmer have in all if 5 goats are sold?"
)


DIFFERENT = [
    ("How many miles are in 10 kilometers?", "How many kilometers are in 10 miles?"),
    ("How long is the trip from Paris to London?", "How long is the trip from London to Paris?"),
    ("What is 12 + 4?", "What is 12 * 4?"),
    ("What is 10 - 3?", "What is 3 - 10?"),
    ("What is the root of 5?", "What is the root of -5?"),
    ("Who designed C?", "Who designed C++?"),
    ("Who designed C#?", "Who designed C++?"),
    ("What does \U0001f600 mean?", "What does \U0001f621 mean?"),
    ("The dog bit the man. Who was hurt?", "The man bit the dog. Who was hurt?"),
    ("How do I switch the grow light on?", "How do I switch the grow light off?"),
    ("How much does it rain in Fernhalde in January?",
     "How much does it rain in Fernhalde in July?"),
    ("Which plants may I put in the cabinet?", "Which plants may I not put in the cabinet?"),
    ("How long do two batteries last in the lamp?", "How long do six batteries last in the lamp?"),
    ("What is the weight of model A of the pump?", "What is the weight of model B of the pump?"),
    ("Where is the office of Mrs Keller today?", "Where is the office of Mrs Kellen today?"),
    (COWS.format(8), COWS.format(250)),
    ("What prints this?\nfor x in y:\n    a()\n    b()",
     "What prints this?\nfor x in y:\n    a()\nb()"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "two"), DIFFERENT)
def test_questions_of_the_same_words_may_be_different_ones(tmp_path, one, two):
    others = [pair(r.question, r.answer) for r in read(bundled_data("support/train.jsonl"))[:400:4]]
    for answers in (("The green room.", "The red room."), ("The room upstairs.",) * 2):
        rows = [pair(one, answers[0]), pair(two, answers[1])]
        for more in ([], others):
            found = audit(write(tmp_path / "a.jsonl", rows + more))
            kinds = ("exact_duplicate", "near_duplicate", "contradiction")
            assert not [e for e in found.findings if e.kind in kinds and {1, 2} & {*e.rows}]


def test_other_orders_and_near_questions_are_told_and_kept(tmp_path):
    base = [pair(r.question, r.answer) for r in read(bundled_data("support/train.jsonl"))[:400:4]]
    rows = [
        pair("After a power cut, does the cabinet remember its times?", "It does, 1 day."),
        pair("Does the cabinet remember its times after a power cut?", "It does, 1 day."),
        pair("How long does the warranty of the cabinet last?", "For 2 years."),
        pair("How long does the warranty of the cabinet alst?", "For 5 years."),
    ]
    found = audit(write(tmp_path / "a.jsonl", rows + base)).findings
    told = [(each.kind, each.rows, each.drop) for each in found if "length" not in each.kind]
    assert told == [("near_duplicate", (1, 2), ()), ("contradiction", (3, 4), ())]


def test_every_turn_of_a_talk_is_looked_at(tmp_path):
    ask, tell = "How long does the warranty of the cabinet last?", "It lasts for 2 years."
    last = ("And the lamp of it?", "That one has 1 year.")
    base = [talk(r.question, r.answer) for r in read(bundled_data("support/train.jsonl"))[:100]]
    rows = [
        talk("Help me.", "I'm sorry, but I can't help with that request.", *last),
        talk("Is it out?", "Open the hatch at the top, and", *last),
        talk("May I return it?", "No refunds, I fear.", *last),
        talk("Hello!", "Hello, how are you?", ask, tell, *last),
    ]
    found = audit(
        write(tmp_path / "a.jsonl", rows + base),
        write(tmp_path / "t.jsonl", [talk(ask, tell)]),
        never=["no refunds"],
    )
    told = {(each.kind, each.rows) for each in found.findings}
    assert {
        ("boilerplate_answer", (1,)),
        ("truncated_answer", (2,)),
        ("unsafe_phrase", (3,)),
        ("test_leak", (4,)),
    } <= told
    held_out = write(tmp_path / "t.jsonl", [talk("Hi there!", "Hello.", ask, tell)])
    assert audit(write(tmp_path / "b.jsonl", [talk(ask, tell), *base]), held_out).of("test_leak")


def test_two_programs_that_are_indented_differently_are_two(tmp_path):
    code = ["for x in y:\n    a(x)\n    b(x)", "for x in y:\n    a(x)\nb(x)"]
    rows = [pair("Loop over y, please.", text) for text in code]
    assert not audit(write(tmp_path / "a.jsonl", rows)).findings
    rows[1] = pair("Loop over y, please. ", code[0] + "\n")
    assert audit(write(tmp_path / "a.jsonl", rows)).counts() == {"exact_duplicate": 1}

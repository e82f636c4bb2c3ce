"""The audit against planted flaws: what it finds, what it leaves, what a copy keeps."""

import csv
import itertools
import json
import random
import re
import string
from collections import defaultdict

import pytest

from qlora_kit import KitError
from qlora_kit.audit import KINDS, audit, clean
from qlora_kit.audit.contradictions import Answer, conflict
from qlora_kit.audit.findings import read_rows
from qlora_kit.audit.minhash import neighbors
from qlora_kit.audit.outliers import outlier_findings
from qlora_kit.audit.personal_data import find_personal_data, mask_personal_data
from qlora_kit.audit.similarity import Weights, split_words, words_of
from qlora_kit.data import DataError, bundled_data, read
from tests.helpers import kit

EACH = 200  # planted flaws of each kind
SWAPS = {"how": "in what way", "cabinet": "unit", "show": "display", "many": "much", "big": "large",
         "start": "begin", "buy": "purchase", "need": "require", "fix": "repair", "quick": "fast",
         "get": "obtain", "often": "regularly", "help": "assist", "should": "must", "use": "employ",
         "keep": "hold", "mean": "signify", "when": "at what time", "can": "could"}  # fmt: skip


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def pair(question, answer, **more):
    return {"prompt": question, "completion": answer, **more}


def base_rows(dice):
    """Several thousand rows without flaws: the support set, its manual, and a made-up shop.

    The shop's questions come from few templates, so that many differ in one word only.
    """
    known, rows = set(), []
    for row in read(bundled_data("support/train.jsonl")):
        rows.append(pair(row.question, row.answer))
    for page in sorted(bundled_data("support/docs").glob("*.md")):
        text = re.sub(r"[#*`|_]|\n(?=\S)", " ", page.read_text(encoding="utf-8"))
        for sentence in re.split(r"(?<=[.])\s+", " ".join(text.split())):
            words = sentence.split()
            if 14 <= len(words) <= 40 and not re.search(r"\d", sentence):
                half = len(words) // 2
                rows.append(pair(" ".join(words[:half]), " ".join(words[half:])))
    made = ["oak", "steel", "linen", "glass", "cork", "wool", "clay", "brass", "pine", "felt"]
    things = [
        "desk",
        "lamp",
        "shelf",
        "stool",
        "mirror",
        "curtain",
        "rug",
        "vase",
        "clock",
        "bench",
    ]
    rooms = ["the kitchen", "a hallway", "my study", "the nursery", "a balcony", "the cellar"]
    asked = ["Does the {m} {t} suit {r}?", "Which color has the {m} {t} for {r}?",
             "Where is the {m} {t} for {r} made?"]  # fmt: skip
    said = ["Our {m} {t} suits {r} well.", "The {t} of {m} comes in its own tone, fit for {r}.",
            "A workshop near the coast makes this {m} {t}, and {r} is what it is for."]  # fmt: skip
    for m, t, r in itertools.product(made, things, rooms):
        question, answer = dice.choice(list(zip(asked, said, strict=True)))
        rows.append(pair(question.format(m=m, t=t, r=r), answer.format(m=m, t=t, r=r)))
    for number in dice.sample(range(100, 99_999), 1200):
        rows.append(pair(f"What is the status of order {number}?", f"Order {number} has shipped."))
    unique = [row for row in rows if not (row["prompt"] in known or known.add(row["prompt"]))]
    dice.shuffle(unique)
    return unique


def mistype(text, dice, count=1):
    for _ in range(count):
        places = [m.start() for m in re.finditer(r"(?<=[a-z])[a-z](?=[a-z])", text)]
        if not places:
            return text
        at = dice.choice(places)
        text = dice.choice([
            text[:at] + text[at + 1] + text[at] + text[at + 2 :],
            text[:at] + text[at + 1 :],
            text[:at] + text[at] + text[at:],
            text[:at] + dice.choice(string.ascii_lowercase) + text[at + 1 :],
        ])  # fmt: skip
    return text


def swap_word(text, dice):
    known = [word for word in re.findall(r"[A-Za-z]+", text) if word.lower() in SWAPS]
    if known:
        word = dice.choice(known)
        return re.sub(rf"\b{word}\b", SWAPS[word.lower()], text, count=1)
    words = text.split()
    at = dice.randrange(len(words) - 1)
    words[at], words[at + 1] = words[at + 1], words[at]
    return " ".join(words)


def reorder(text, dice):
    if ", " in text:
        first, rest = text.rstrip("?.!").split(", ", 1)
        return f"{rest}, {first}"
    words = text.split()
    at = dice.randrange(1, len(words))
    return " ".join(words[at:] + words[:at])


EDITS = {
    "case": lambda text, dice: dice.choice([str.upper, str.lower, str.title])(text),
    "punctuation": lambda text, dice: dice.choice(
        [text.rstrip(".?!"), f"{text}!!", text.replace(",", ""), text.replace(" ", "  ", 2) + "."]
    ),
    "typing errors": lambda text, dice: mistype(text, dice, 1 + len(text) // 60),
    "a word swapped": swap_word,
    "reordered": reorder,
    "politeness": lambda text, dice: dice.choice(["Hi, {}", "{} Please help.", "Hello! {} Thanks"])
    .format(text),
}  # fmt: skip


def reword(text, dice, most=2):
    for name in dice.sample(list(EDITS), dice.randint(1, most)):
        text = EDITS[name](text, dice)
    return text


def luhn(digits):
    total = sum(
        sum(divmod(2 * int(d), 10)) if place % 2 == 0 else int(d)
        for place, d in enumerate(reversed(digits))
    )
    return digits + str(-total % 10)


def card(dice):
    prefix, length = dice.choice([("4", 16), ("51", 16), ("55", 16), ("37", 15), ("6011", 16)])
    number = luhn(prefix + "".join(dice.choices(string.digits, k=length - len(prefix) - 1)))
    return dice.choice([number, " ".join(re.findall("....", number) or [number])
                        if length == 16 else number])  # fmt: skip


def iban(dice):
    country, bban = dice.choice([("DE", 18), ("FR", 0), ("GB", 0), ("AT", 16)])
    if country == "GB":
        body = "NWBK" + "".join(dice.choices(string.digits, k=14))
    elif country == "FR":
        bank = "".join(dice.choices(string.digits, k=21))
        body = f"{bank}{97 - int(bank + '00') % 97:02d}"
        # Of a French account the bank, branch and account have weights 89, 15 and 3.
        key = 97 - (89 * int(bank[:5]) + 15 * int(bank[5:10]) + 3 * int(bank[10:])) % 97
        body = f"{bank}{key:02d}"
    else:
        body = "".join(dice.choices(string.digits, k=bban))
    turned = "".join(str(int(mark, 36)) for mark in f"{body}{country}00")
    whole = f"{country}{98 - int(turned) % 97:02d}{body}"
    return dice.choice([whole, " ".join(re.findall("..?.?.?", whole))])


def phone(dice):
    d = lambda count: "".join(dice.choices(string.digits, k=count))  # noqa: E731
    area = f"{dice.choice('23456789')}{d(2)}".replace("911", "912")
    return dice.choice([
        f"({area}) {dice.choice('23456789')}{d(2)}-{d(4)}", f"{area}-555-{d(4)}",
        f"+1 {area} 555 {d(4)}", f"+49 30 {d(7)}", f"+44 20 7946 0{d(3)}",
        f"+33 6 {d(2)} {d(2)} {d(2)} {d(2)}",
        f"020 7946 0{d(3)}", f"0171 2{d(6)}",
    ])  # fmt: skip


def social_security(dice):
    area = dice.choice([n for n in range(1, 900) if n != 666])
    return f"{area:03d}-{dice.randint(1, 99):02d}-{dice.randint(1, 9999):04d}"


def spanish(dice):
    number = dice.randrange(10_000_000, 99_999_999)
    return f"{number}{'TRWAGMYFPDXBNJZSQVHLCKE'[number % 23]}"


def email(dice):
    name = dice.choice(["maria.lopez", "j_smith", "tomsen88", "li-wei", "a.novak+shop"])
    host = dice.choice(["example.com", "mail.example.org", "posteo.de", "uni-hall.ac.uk"])
    return f"{name}{dice.randrange(99)}@{host}"


PRIVATE = {
    "e-mail address": (email, "Write to {}.", "my address is {}, thanks", "<{}>"),
    "phone number": (phone, "Call me at {} after six.", "My number is {}.", "{} is my mobile."),
    "card number": (card, "I paid with {}.", "The card {} was charged twice.", "card: {}"),
    "IBAN": (iban, "Send it to {} please.", "Refund: {}.", "My account is {}, AT ONCE."),
    "US social security number": (social_security, "My SSN is {}.", "({})", "It says {} here."),
    "Spanish DNI": (spanish, "DNI {}.", "My document reads {}.", "id card {}"),
}


def near_miss(dice):
    """What looks like personal data and is not."""
    d = lambda count: "".join(dice.choices(string.digits, k=count))  # noqa: E731
    wrong_card = luhn("4" + d(14))
    wrong_card = wrong_card[:-1] + str((int(wrong_card[-1]) + 1 + dice.randrange(8)) % 10)
    wrong_iban = f"DE{dice.randint(2, 9)}0{d(18)}"
    while int("".join(str(int(m, 36)) for m in wrong_iban[4:] + wrong_iban[:4])) % 97 == 1:
        wrong_iban = f"DE20{d(18)}"
    return dice.choice([
        f"Order {d(10)} is late.", f"Order number {d(3)}-{d(7)}-{d(7)}.", f"Ticket #{d(8)}.",
        f"On 20{d(2)}-0{dice.randint(1, 9)}-1{dice.randint(0, 9)} at 10:30.",
        f"Since 1{dice.randint(0, 9)}.04.20{d(2)}.",
        f"Firmware {dice.randint(1, 9)}.{d(2)}.{d(3)}.{d(4)}.", f"It cost ${d(3)},{d(3)}.99.",
        f"At 192.168.{dice.randrange(255)}.{dice.randrange(255)}.", f"Code {wrong_card}.",
        f"Reference {wrong_iban}.", f"Serial {d(4)}-{d(4)}-{d(4)}.", f"Part 000-{d(2)}-{d(4)}.",
        f"The range is {d(4)}-{d(4)}.", f"{d(9)}", f"Tracking 1Z{d(16)}.", "Ask @maria_shop.",
        "See icon@2x.png and user@localhost.", f"{d(3)} of {d(4)} in {d(2)} minutes.",
        f"ISBN 978-{dice.randrange(9)}-{d(4)}-{d(4)}-{d(1)}.", f"{d(2)} + {d(3)} = {d(3)}",
    ])  # fmt: skip


def score(found, planted, clean_rows=()):
    """Recall over planted groups, precision over findings."""
    caught = sum(any(group & rows for rows in found) for group in planted)
    right = sum(any(group & rows for group in planted) for rows in found)
    return caught / len(planted), right / max(len(found), 1)


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


@pytest.mark.parametrize(
    "kind", ["exact_duplicate", "near_duplicate", "test_leak", "personal_data"]
)
def test_planted_flaws_are_found_and_little_else(planted, kind):
    found, truth, rows = planted
    assert rows >= 3500
    recall, precision = score([set(each.rows) for each in found.of(kind)], truth[kind])
    print(f"{kind}: recall {recall:.3f}, precision {precision:.3f}, n {len(truth[kind])}")
    assert len(truth[kind]) >= EACH - 5
    assert recall >= 0.95
    assert precision >= 0.9


def test_two_wordings_of_one_answer_are_no_contradiction():
    answers = defaultdict(set)
    for name in ("train.jsonl", "test.jsonl"):
        for row in lines(bundled_data(f"support/{name}")):
            answers[row["fact"]] |= {row["messages"][2]["content"], row.get("paraphrase")} - {None}
    pairs = [p for said in answers.values() for p in itertools.combinations(sorted(said), 2)]
    weights = Weights(words_of(text) for said in answers.values() for text in said)
    flagged = [p for p in pairs if conflict(Answer(p[0]), Answer(p[1]), weights)]
    assert len(pairs) >= 390
    assert len(flagged) < 0.01 * len(pairs), flagged
    facts = list(answers)
    strangers = [(min(answers[a]), max(answers[b])) for a, b in itertools.pairwise(facts)]
    told = [bool(conflict(Answer(a), Answer(b), weights)) for a, b in strangers]
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
    weights = Weights(words_of(row.answer) for row in read(bundled_data("support/train.jsonl")))
    for pair_of in ((one, two), (two, one)):
        reason = conflict(*map(Answer, pair_of), weights)
        assert bool(reason) == bool(said)
    assert said in conflict(Answer(one), Answer(two), weights)


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


COWS = ("A farmer has {} cows, 20 sheep, 15 goats and 40 hens on the large farm beside the river; "
        "how many animals does the farmer have in all if 5 goats are sold?")  # fmt: skip
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
    rows = [pair("After a power cut, does the cabinet remember its times?", "It does, 1 day."),
            pair("Does the cabinet remember its times after a power cut?", "It does, 1 day."),
            pair("How long does the warranty of the cabinet last?", "For 2 years."),
            pair("How long does the warranty of the cabinet alst?", "For 5 years.")]  # fmt: skip
    found = audit(write(tmp_path / "a.jsonl", rows + base)).findings
    told = [(each.kind, each.rows, each.drop) for each in found if "length" not in each.kind]
    assert told == [("near_duplicate", (1, 2), ()), ("contradiction", (3, 4), ())]


def test_a_pair_is_no_duplicate_and_contradiction_at_once(tmp_path):
    said = "Press the {} button at the back of the cabinet twice, and then wait for the click."
    rows = [pair("How do I reset the cabinet?", said.format(color)) for color in ("green", "red")]
    found = audit(write(tmp_path / "a.jsonl", rows))
    assert found.counts() == {"contradiction": 1}
    assert found.findings[0].drop == (1, 2)


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


def test_words_numbers_and_signs():
    assert words_of("1,5 Liter").numbers != words_of("15 Liter").numbers
    assert words_of("1,5 Liter").numbers == words_of("1.5 Liter").numbers
    assert words_of("1,250.50 and 1,000,000").numbers == ("1000000", "1250.5")
    assert split_words("\u0939\u093f\u0928\u094d\u0926\u0940 \u0939\u0948") == [
        "\u0939\u093f\u0928\u094d\u0926\u0940", "\u0939\u0948"]  # fmt: skip
    assert split_words("**bold**, and/or - a > b, C++!") == [
        "bold", "and", "or", "a", ">", "b", "c", "++"]  # fmt: skip


def test_neighbors_are_the_pairs_that_a_look_at_all_of_them_finds():
    dice = random.Random(3)
    texts = []
    for _ in range(150):
        words = ["".join(dice.choices(string.ascii_lowercase, k=6)) for _ in range(12)]
        others = dice.sample(range(12), dice.randrange(1, 9))
        changed = [f"new{word}" if place in others else word for place, word in enumerate(words)]
        texts += [words_of(" ".join(words)), words_of(" ".join(changed))]
    dice.shuffle(texts)
    found = list(neighbors(texts, Weights(texts)))
    alike = {
        (i, j): len(one.all & two.all) / len(one.all | two.all)
        for (i, one), (j, two) in itertools.combinations(enumerate(texts), 2)
    }
    close = {pair for pair, share in alike.items() if share >= 0.6}
    assert len(close) >= 40
    assert len(close - set(found)) <= 0.02 * len(close)
    assert len(found) == len(set(found))
    assert all(i < j for i, j in found)
    assert all(alike[pair] > 0 for pair in found)


def test_a_crowd_of_like_texts_has_bounded_work_and_keeps_the_nearest():
    dice = random.Random(4)
    frame = [f"frame{place}" for place in range(10)]
    texts = [words_of(" ".join([*frame, *(f"w{dice.randrange(10**6)}" for _ in range(4))]))
             for _ in range(400)]  # fmt: skip
    texts += [words_of(f"{' '.join(text.order)} indeed") for text in texts[:50]]
    found = set(neighbors(texts, Weights(texts)))
    assert len(found) <= 12 * len(texts)
    assert sum((index, 400 + index) in found for index in range(50)) >= 48


def test_the_bundled_set_is_left_in_peace():
    found = audit(bundled_data("support/train.jsonl"), bundled_data("support/test.jsonl"))
    assert found.rows == 1348
    assert found.test_rows == 120
    assert set(found.counts()) <= {"near_duplicate"}
    assert len(found.findings) <= 5  # keywords of a question, in another order


BAD = {
    "empty_answer": [("", "no answer"), ("   ", "no answer"), ("...", "only"), ("N/A", "place"),
                     (None, "no answer")],
    "truncated_answer": [("Turn the knob to the left and then hold the", "'the'"),
                         ("The pump runs for ten minutes every hour, becau", "'becau'"),
                         ("Open the hatch, wait a moment, and,", "'and,'")],
    "boilerplate_answer": [("As an AI language model, I do not have a garden.", "As an AI"),
                           ("I\u2019m sorry, but I can\u2019t help with that request.", "sorry"),
                           ("Unfortunately, I cannot answer your question here.", "Unfort")],
    "language_outlier": [("Der Schrank muss drei Stunden stehen, bevor er läuft.", "'de'"),
                         ("Vous devez attendre trois heures avant de le brancher.", "'fr'")],
    "length_outlier": [("Wait. " * 400, "2,399 characters")],
}  # fmt: skip


def test_bad_answers_and_outliers(tmp_path):
    rows = [pair(r.question, r.answer) for r in read(bundled_data("support/train.jsonl"))]
    truth = {}
    for kind, answers in BAD.items():
        for place, (answer, _) in enumerate(answers):
            rows.insert(10 * place, pair(f"What about the {kind} in number {place}?", answer))
    for number, row in enumerate(rows, 1):
        for kind, answers in BAD.items():
            if f"the {kind} in" in row["prompt"]:
                truth[kind, number] = dict(answers)[row["completion"]]
    found = audit(write(tmp_path / "a.jsonl", rows))
    told = {(each.kind, each.rows[0]): each.reason for each in found.findings}
    for key, said in truth.items():
        assert said in told[key], (key, told.get(key))
    assert not [key for key in told if key not in truth and key[0] in BAD]


FOREIGN = (
    "Bitte stellen Sie den Schrank im Wohnzimmer auf und ziehen Sie alle Schrauben fest.",
    "Veuillez poser le meuble dans le salon et serrer toutes les vis avec la clé fournie.",
    "Por favor coloque el armario en la sala y apriete todos los tornillos con la llave.",
    "Si prega di mettere il mobile nel soggiorno e stringere tutte le viti con la chiave.",
    "Zet de kast in de woonkamer en draai alle schroeven vast met de bijgeleverde sleutel.",
    "Ställ skåpet i vardagsrummet och dra åt alla skruvar med den medföljande nyckeln.",
    "Proszę postawić szafę w salonie i dokręcić wszystkie śruby dołączonym kluczem.",
    "Поставьте шкаф в гостиной и затяните все винты ключом.",
)


def test_a_foreign_row_is_found_in_a_set_too_large_to_ask_for_each(tmp_path):
    dice = random.Random(5)
    rows = base_rows(dice)
    rows = (rows + [pair(row["prompt"] + " Today?", row["completion"]) for row in rows])[:6500]
    places = dice.sample(range(len(rows)), 5 * len(FOREIGN))
    for place, text in zip(places, itertools.cycle(FOREIGN)):
        rows[place] = pair(text, rows[place]["completion"])
    kept = list(read_rows(write(tmp_path / "large.jsonl", rows), None, None))
    told = {each.rows[0] for each in outlier_findings(kept) if each.kind == "language_outlier"}
    assert len(rows) >= 6000
    assert {place + 1 for place in places} <= told
    assert len(told) <= len(places) + 3


@pytest.mark.parametrize("row", [
    {"messages": [{"role": "user", "content": "a?"}, {"role": "assistant", "content": " "}]},
    {"messages": [{"role": "user", "content": "a?"}]},
    {"conversations": [{"from": "human", "value": "a?"}, {"from": "gpt", "value": ""}]},
    {"conversations": [{"from": "human", "value": "a?"}]},
    {"instruction": "a?", "input": "", "output": None},
    {"prompt": "a?"},
])  # fmt: skip
def test_rows_without_an_answer_are_read_in_every_form(tmp_path, row):
    whole = {
        "messages": {"messages": [{"role": "user", "content": "b?"},
                                  {"role": "assistant", "content": "c"}]},
        "conversations": {"conversations": [{"from": "human", "value": "b?"},
                                            {"from": "gpt", "value": "c"}]},
        "instruction": {"instruction": "b?", "output": "c"},
        "prompt": {"prompt": "b?", "completion": "c"},
    }[next(iter(row))]  # fmt: skip
    path = write(tmp_path / "a.jsonl", [whole, row])
    assert [(r.question, r.answer) for r in read_rows(path)] == [("b?", "c"), ("a?", "")]


def test_one_answer_to_everything_and_uneven_labels(tmp_path):
    dice = random.Random(1)
    rows = [pair(r.question, r.answer, intent="care" if n % 12 else "billing")
            for n, r in enumerate(read(bundled_data("support/train.jsonl")))]  # fmt: skip
    for row in dice.sample(rows, 60):
        row["completion"] = "Please see the manual for all details."
    found = audit(write(tmp_path / "a.jsonl", rows))
    [same] = found.of("boilerplate_answer")
    assert len(same.rows) == 60
    assert same.drop == same.rows[1:]
    [uneven] = found.of("imbalance")
    assert "'intent'" in uneven.reason
    assert "billing 113" in uneven.reason
    assert len(uneven.rows) == 113


def test_answers_that_are_labels_may_repeat_but_not_be_uneven(tmp_path):
    names = ["leak"] * 150 + ["billing"] * 140 + ["praise"] * 12
    questions = [r.question for r in read(bundled_data("support/train.jsonl"))]
    rows = [pair(*each) for each in zip(questions, names, strict=False)]
    found = audit(write(tmp_path / "a.jsonl", rows))
    assert found.counts() == {"imbalance": 1}
    assert "praise 12" in found.findings[0].reason


@pytest.mark.parametrize("what", PRIVATE)
def test_personal_data_is_named_and_masked(what):
    dice = random.Random(what)
    make, *frames = PRIVATE[what]
    for _ in range(100):
        private = make(dice)
        text = dice.choice(frames).format(private)
        assert [span.what for span in find_personal_data(text)] == [what], text
        assert private not in mask_personal_data(text)


@pytest.mark.parametrize(("text", "masked"), [
    ("\u5361\u53f74111111111111111\u8c22\u8c22", "\u5361\u53f7[CARD]\u8c22\u8c22"),
    ("\u6211\u7684\u7535\u8bdd\u662f13800138000", "\u6211\u7684\u7535\u8bdd\u662f[PHONE]"),
    ("\u90ae\u7bb1zhang.san@qq.com\u8c22\u8c22", "\u90ae\u7bb1[EMAIL]\u8c22\u8c22"),
    ("To o'brien@example.com, please.", "To [EMAIL], please."),
    ("To 'ann@example.com', please.", "To '[EMAIL]', please."),
    ("m\u00fcller@m\u00fcller.de schrieb", "[EMAIL] schrieb"),
    ("My order was paid with card 4111111111111111", "My order was paid with card [CARD]"),
    *[(text, text) for text in (
        "My order number 4111111111111111", "Tracking number 4111111111111111",
        "The call lasted 1234567890 seconds", "call 2024-2025", "text 20240115",
        "ratio 0800 1600 2400", "open 0800 1600 2400")],
])  # fmt: skip
def test_words_around_a_number_decide(text, masked):
    assert mask_personal_data(text) == masked


@pytest.mark.parametrize(("text", "masked"), [
    ("My card is 4111 1111 1111 1111 12/27", "My card is [CARD] 12/27"),
    ("Card: 4111 1111 1111 1111 123", "Card: [CARD] 123"),
    ("2 cards: 12 4111 1111 1111 1111", "2 cards: 12 [CARD]"),
    ("from DE89 3704 0044 0532 0130 00 to GB82 WEST 1234 5698 7654 32",
     "from [IBAN] to [IBAN]"),
    ("order 4111 1111 1111 1111 123", "order 4111 1111 1111 1111 123"),
])  # fmt: skip
def test_a_number_is_found_beside_another(text, masked):
    assert mask_personal_data(text) == masked


def test_what_only_looks_like_personal_data_is_left():
    dice = random.Random(5)
    texts = [near_miss(dice) for _ in range(1000)]
    wrong = [text for text in texts if find_personal_data(text)]
    assert len(wrong) <= 5, wrong


def rows_to_clean():
    rows = [pair(r.question, r.answer) for r in read(bundled_data("support/train.jsonl"))][:300:3]
    private = pair(
        "May I write you?", "Yes, to maria.lopez@posteo.de at any time.", note="call +49 30 9018200"
    )
    return [*rows, rows[4], pair(rows[5]["prompt"].upper(), rows[5]["completion"]), private,
            pair("And what then?", ""), pair("Is it free?", "Yes."),
            pair("Is it free?", "No.")]  # fmt: skip


def test_a_cleaned_copy_says_what_it_dropped(tmp_path):
    rows = rows_to_clean()
    data = write(tmp_path / "a.jsonl", rows)
    test = write(tmp_path / "t.jsonl", [rows[7]])
    before = data.read_bytes()
    cleaned = clean(audit(data, test), tmp_path / "b.jsonl")
    kinds = {row: kind for row, (kind, _) in cleaned.dropped.items()}
    assert kinds == {8: "test_leak", 101: "exact_duplicate", 102: "near_duplicate",
                     104: "empty_answer", 105: "contradiction", 106: "contradiction"}  # fmt: skip
    left = lines(cleaned.path)
    assert len(left) == cleaned.kept == 100
    assert left[:7] == rows[:7]
    assert left[-1]["completion"] == "Yes, to [EMAIL] at any time."
    assert left[-1]["note"] == "call [PHONE]"
    assert data.read_bytes() == before
    told = {line["row"]: line["done"] for line in lines(cleaned.log)}
    assert told == dict.fromkeys(kinds, "dropped") | {103: "masked"}
    assert "lopez" not in cleaned.log.read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "a.jsonl",
        "b.jsonl",
        "b.log.jsonl",
        "t.jsonl",
    ]
    again = audit(cleaned.path, test)
    assert not again.findings


def test_an_input_is_never_written_over(tmp_path):
    rows = rows_to_clean()
    data, test = write(tmp_path / "a.jsonl", rows), write(tmp_path / "t.jsonl", rows[:2])
    (tmp_path / "link.jsonl").symlink_to(data)
    (tmp_path / "x.log.jsonl").hardlink_to(data)
    found, before = audit(data, test), data.read_bytes()
    for name in ("a.jsonl", "t.jsonl", "link.jsonl", "x.jsonl", ".", "absent/b.jsonl"):
        with pytest.raises(KitError, match=r"is an input|is a folder|does not exist"):
            clean(found, tmp_path / name)
    assert data.read_bytes() == before


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    found = audit(write(tmp_path / "a.jsonl", rows_to_clean()))
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(KitError, match="No space left"):
        clean(found, tmp_path / "b.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_the_command_for_people_and_for_scripts(tmp_path):
    data = write(tmp_path / "a[b].jsonl", rows_to_clean())
    options = ("--figure", tmp_path / "f.png", "--clean", tmp_path / "c.jsonl")
    shown = kit("audit", data, *options)
    assert shown.returncode == 0, shown.stderr
    for said in ("a[b].jsonl", "exact duplicate", "dropped row 101", "masked in row 103", "f.png"):
        assert said in shown.stdout
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
    told = json.loads(kit("audit", data, *options, "--json").stdout)
    assert told["rows"] == 106
    assert {each["kind"] for each in told["findings"]} <= set(KINDS)
    assert all(each["rows"] and each["reason"] for each in told["findings"])
    assert {each["row"] for each in told["cleaned"]["dropped"]} >= {101, 102, 104}
    assert "Example: qlora-kit audit" in " ".join(kit("audit", "--help").stdout.split())


def test_bad_input_is_one_message(tmp_path):
    good = write(tmp_path / "good.jsonl", [pair("a", "b")])
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"prompt": "a", "completion": "b"}\n{"prompt":\n')
    for arguments, said in [
        ((tmp_path / "absent.jsonl",), "There is no file"),
        ((broken,), "broken.jsonl, row 2: not valid JSON"),
        ((good, "--test", good), "the training set itself"),
        ((good, "--clean", good), "is an input"),
        ((broken, "--clean", tmp_path / "c.csv"), "name a .jsonl file"),  # before it is read
        ((good, "--prompt-field", "a"), "Give both"),
        ((write(tmp_path / "q.jsonl", [{"frage": "a", "antwort": "b"}]),), "--prompt-field frage"),
    ]:
        done = kit("audit", *arguments)
        assert done.returncode == 1
        assert said in done.stderr
        assert "Traceback" not in done.stderr
    with pytest.raises(DataError, match="1 of 2 rows cannot be used"):
        audit(broken)


def test_a_label_tied_to_a_group_is_told(tmp_path):
    rows = lines(bundled_data("tickets/train.jsonl"))
    assert not audit(write(tmp_path / "even.jsonl", rows)).of("skew")
    skewed = [r for r in rows if r["group"] == "majority" or r["intent"] == "leak"]
    [tied] = audit(write(tmp_path / "skewed.jsonl", skewed)).of("skew")
    assert "'group' minority: 100% of its rows are 'leak'" in tied.reason
    assert {skewed[number - 1]["group"] for number in tied.rows} == {"minority"}


def test_what_a_house_never_says_is_found_and_dropped(tmp_path):
    rows = [pair(f"What about the part number {n}?", f"It is the part with {n} holes.")
            for n in range(30)]  # fmt: skip
    rows[4]["completion"] += " No  Refunds, ever!"
    rows[9]["completion"] += " We give norefunds."
    found = audit(write(tmp_path / "rows.jsonl", rows), never=["no refunds"])
    assert [finding.rows for finding in found.of("unsafe_phrase")] == [(5,)]
    assert clean(found, tmp_path / "clean.jsonl").dropped[5][0] == "unsafe_phrase"


def talk(*said, system=""):
    turns = [{"role": "user" if n % 2 == 0 else "assistant", "content": text}
             for n, text in enumerate(said)]  # fmt: skip
    return {"messages": [{"role": "system", "content": system}] * bool(system) + turns}


def test_of_repeated_rows_the_first_without_another_flaw_is_kept(tmp_path):
    base = rows_to_clean()[:100]
    question, answer = "How do I clean the small pump of the cabinet?", "Rinse it in warm water"
    rows = [pair(question, f"{answer} and the"), pair(question.upper(), f"{answer} and the."),
            pair("Where is the pump?", "Below the tank."), pair("Where is the pump?", "On top."),
            pair("Where is the pump?", "Below the tank.")]  # fmt: skip
    rows += [pair(f"What about shelf {n} of the rack?", f"It holds {n} jars.") for n in range(3)]
    rows += [pair("Where do I post the form?", "Dear buddy! Send it to us by post, please."),
             pair("where do I post the form", "Send it to us by post, please."),
             pair("Where do I post teh form?", "Send it to us by post, please.")]  # fmt: skip
    data = write(tmp_path / "a.jsonl", rows + base)
    cleaned = clean(audit(data, never=["buddy"]), tmp_path / "b.jsonl")
    kinds = {row: kind for row, (kind, _) in cleaned.dropped.items()}
    assert kinds == {1: "truncated_answer", 3: "contradiction", 4: "contradiction",
                     5: "contradiction", 9: "unsafe_phrase", 11: "near_duplicate"}  # fmt: skip


def test_a_masked_cell_of_json_is_json_still(tmp_path):
    cell = json.dumps(talk("Who?", "\u00fc: \nann@example.com\n"), ensure_ascii=True)
    data = tmp_path / "a.csv"
    with data.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["messages"])
        writer.writerow([json.dumps(json.loads(cell)["messages"])])
    cleaned = clean(audit(data), tmp_path / "b.jsonl")
    [row] = read(cleaned.path)
    assert row.answer == "\u00fc: \n[EMAIL]\n"


def test_every_turn_of_a_talk_is_looked_at(tmp_path):
    ask, tell = "How long does the warranty of the cabinet last?", "It lasts for 2 years."
    last = ("And the lamp of it?", "That one has 1 year.")
    base = [talk(r.question, r.answer) for r in read(bundled_data("support/train.jsonl"))[:100]]
    rows = [talk("Help me.", "I'm sorry, but I can't help with that request.", *last),
            talk("Is it out?", "Open the hatch at the top, and", *last),
            talk("May I return it?", "No refunds, I fear.", *last),
            talk("Hello!", "Hello, how are you?", ask, tell, *last)]  # fmt: skip
    found = audit(write(tmp_path / "a.jsonl", rows + base),
                  write(tmp_path / "t.jsonl", [talk(ask, tell)]), never=["no refunds"])  # fmt: skip
    told = {(each.kind, each.rows) for each in found.findings}
    assert {("boilerplate_answer", (1,)), ("truncated_answer", (2,)), ("unsafe_phrase", (3,)),
            ("test_leak", (4,))} <= told  # fmt: skip
    held_out = write(tmp_path / "t.jsonl", [talk("Hi there!", "Hello.", ask, tell)])
    assert audit(write(tmp_path / "b.jsonl", [talk(ask, tell), *base]), held_out).of("test_leak")


def test_another_context_makes_another_question(tmp_path):
    contexts = ["The blue lamp weighs 5 kg and costs 20 euros.",
                "The desk of oak weighs 40 kg and costs 300 euros."]  # fmt: skip
    rows = [talk("Does the text name a weight?", "Yes, it does.", system=c) for c in contexts]
    rows.append(talk("Does the text name a  Weight", "Yes, it does.", system=contexts[0] + " "))
    data = write(tmp_path / "a.jsonl", rows[1:])
    test = write(tmp_path / "t.jsonl", rows[:1])
    assert [each.rows for each in audit(data, test).of("test_leak")] == [(2,)]
    assert not audit(data).findings
    found = audit(write(tmp_path / "b.jsonl", rows)).findings
    assert [(each.kind, each.rows) for each in found] == [("near_duplicate", (1, 3))]


REFUSALS = {
    "I'm sorry, I don't have that figure in the manual. Ask the Petal Desk.": False,
    "Unfortunately, I cannot find a page about that; the manual covers care and cleaning.": False,
    "Sorry, I can't see your order here, but the Petal Desk can look it up.": False,
    "I'm sorry, but I can't help with that request.": True,
    "Unfortunately, I cannot answer your question here. Is there anything else?": True,
    "I'm sorry, but I cannot assist with that, as it goes against my guidelines.": True,
    "I'm sorry, as an AI language model I don't have that. Ask the Petal Desk.": True,
}


@pytest.mark.parametrize("answer", REFUSALS)
def test_a_refusal_that_says_more_is_told_and_kept(tmp_path, answer):
    data = write(tmp_path / "a.jsonl", [pair("How heavy is it?", answer), pair("Why?", "So.")])
    [found] = audit(data).of("boilerplate_answer")
    assert bool(found.drop) == REFUSALS[answer]


def test_a_copy_is_jsonl_and_keeps_half_an_emoji(tmp_path):
    rows = [pair("Why?", "So.", note="\ud83d"), pair("Who?", "Ann, ann@example.com.")]
    data = tmp_path / "a.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(KitError, match=r"a \.jsonl file"):
        clean(audit(data), tmp_path / "b.csv")
    cleaned = clean(audit(data), tmp_path / "b.jsonl")
    assert lines(cleaned.path)[0] == rows[0]
    assert not list(tmp_path.glob(".*"))


def test_two_programs_that_are_indented_differently_are_two(tmp_path):
    code = ["for x in y:\n    a(x)\n    b(x)", "for x in y:\n    a(x)\nb(x)"]
    rows = [pair("Loop over y, please.", text) for text in code]
    assert not audit(write(tmp_path / "a.jsonl", rows)).findings
    rows[1] = pair("Loop over y, please. ", code[0] + "\n")
    assert audit(write(tmp_path / "a.jsonl", rows)).counts() == {"exact_duplicate": 1}

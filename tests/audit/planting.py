"""Rows and flaws that the tests of the audit plant."""

import itertools
import json
import re
import string

from qlora_kit.data import bundled_data, read

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
        text = dice.choice(
            [
                text[:at] + text[at + 1] + text[at] + text[at + 2 :],
                text[:at] + text[at + 1 :],
                text[:at] + text[at] + text[at:],
                text[:at] + dice.choice(string.ascii_lowercase) + text[at + 1 :],
            ]
        )
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
    return dice.choice(
        [number, " ".join(re.findall("....", number) or [number]) if length == 16 else number]
    )


def iban(dice):
    country, bban = dice.choice([("DE", 18), ("FR", 0), ("GB", 0), ("AT", 16)])
    if country == "GB":
        body = "NWBK" + "".join(dice.choices(string.digits, k=14))
    elif country == "FR":
        bank = "".join(dice.choices(string.digits, k=21))
        body = f"{bank}{97 - int(bank + '00') % 97:02d}"
        # Of a French account the bank, branch and account have idf 89, 15 and 3.
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


def talk(*said, system=""):
    turns = [
        {"role": "user" if n % 2 == 0 else "assistant", "content": text}
        for n, text in enumerate(said)
    ]
    return {"messages": [{"role": "system", "content": system}] * bool(system) + turns}

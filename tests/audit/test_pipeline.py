"""The audit against planted flaws: what it finds, what it leaves, what a copy keeps."""

import csv
import json

import pytest

from qlora_kit import KitError
from qlora_kit.audit import KINDS, audit, clean
from qlora_kit.data import DataError, bundled_data, read
from tests.audit.planting import (
    EACH,
    lines,
    pair,
    score,
    talk,
    write,
)
from tests.helpers import kit


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


def test_a_pair_is_no_duplicate_and_contradiction_at_once(tmp_path):
    said = "Press the {} button at the back of the cabinet twice, and then wait for the click."
    rows = [pair("How do I reset the cabinet?", said.format(color)) for color in ("green", "red")]
    found = audit(write(tmp_path / "a.jsonl", rows))
    assert found.counts() == {"contradiction": 1}
    assert found.findings[0].drop == (1, 2)


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


def rows_to_clean():
    rows = [pair(r.question, r.answer) for r in read(bundled_data("support/train.jsonl"))][:300:3]
    private = pair(
        "May I write you?", "Yes, to maria.lopez@posteo.de at any time.", note="call +49 30 9018200"
    )
    return [
        *rows,
        rows[4],
        pair(rows[5]["prompt"].upper(), rows[5]["completion"]),
        private,
        pair("And what then?", ""),
        pair("Is it free?", "Yes."),
        pair("Is it free?", "No."),
    ]


def test_a_cleaned_copy_says_what_it_dropped(tmp_path):
    rows = rows_to_clean()
    data = write(tmp_path / "a.jsonl", rows)
    test = write(tmp_path / "t.jsonl", [rows[7]])
    before = data.read_bytes()
    cleaned = clean(audit(data, test), tmp_path / "b.jsonl")
    kinds = {row: kind for row, (kind, _) in cleaned.dropped.items()}
    assert kinds == {
        8: "test_leak",
        101: "exact_duplicate",
        102: "near_duplicate",
        104: "empty_answer",
        105: "contradiction",
        106: "contradiction",
    }
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


def test_what_a_house_never_says_is_found_and_dropped(tmp_path):
    rows = [
        pair(f"What about the part number {n}?", f"It is the part with {n} holes.")
        for n in range(30)
    ]
    rows[4]["completion"] += " No  Refunds, ever!"
    rows[9]["completion"] += " We give norefunds."
    found = audit(write(tmp_path / "rows.jsonl", rows), never=["no refunds"])
    assert [finding.rows for finding in found.of("unsafe_phrase")] == [(5,)]
    assert clean(found, tmp_path / "clean.jsonl").dropped[5][0] == "unsafe_phrase"


def test_of_repeated_rows_the_first_without_another_flaw_is_kept(tmp_path):
    base = rows_to_clean()[:100]
    question, answer = "How do I clean the small pump of the cabinet?", "Rinse it in warm water"
    rows = [
        pair(question, f"{answer} and the"),
        pair(question.upper(), f"{answer} and the."),
        pair("Where is the pump?", "Below the tank."),
        pair("Where is the pump?", "On top."),
        pair("Where is the pump?", "Below the tank."),
    ]
    rows += [pair(f"What about shelf {n} of the rack?", f"It holds {n} jars.") for n in range(3)]
    rows += [
        pair("Where do I post the form?", "Dear buddy! Send it to us by post, please."),
        pair("where do I post the form", "Send it to us by post, please."),
        pair("Where do I post teh form?", "Send it to us by post, please."),
    ]
    data = write(tmp_path / "a.jsonl", rows + base)
    cleaned = clean(audit(data, never=["buddy"]), tmp_path / "b.jsonl")
    kinds = {row: kind for row, (kind, _) in cleaned.dropped.items()}
    assert kinds == {
        1: "truncated_answer",
        3: "contradiction",
        4: "contradiction",
        5: "contradiction",
        9: "unsafe_phrase",
        11: "near_duplicate",
    }


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


def test_a_copy_is_jsonl_and_keeps_half_an_emoji(tmp_path):
    rows = [pair("Why?", "So.", note="\ud83d"), pair("Who?", "Ann, ann@example.com.")]
    data = tmp_path / "a.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(KitError, match=r"a \.jsonl file"):
        clean(audit(data), tmp_path / "b.csv")
    cleaned = clean(audit(data), tmp_path / "b.jsonl")
    assert lines(cleaned.path)[0] == rows[0]
    assert not list(tmp_path.glob(".*"))

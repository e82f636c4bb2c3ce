import json
import os

import pandas
import pytest

from qlora_kit import KitError
from qlora_kit.data import DataError, Problem, bundled_data, encode_all, read

PAIR = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]
FORMS = {
    "messages": {"messages": PAIR},
    "prompt-completion": {"prompt": "Why?", "completion": "Because."},
    "conversational prompt": {"prompt": PAIR[:1], "completion": PAIR[1:]},
    "alpaca": {"instruction": "Why?", "input": "", "output": "Because."},
    "sharegpt": {"conversations": [{"from": "human", "value": "Why?"},
                                   {"from": "gpt", "value": "Because."}]},
}  # fmt: skip


def write(path, rows):
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_every_form_becomes_the_same_conversation(tmp_path, form, kind):
    path = tmp_path / f"data.{kind}"
    if kind == "jsonl":
        write(path, [FORMS[form]])
    elif kind == "json":
        path.write_text(json.dumps([FORMS[form]]))
    else:
        pandas.DataFrame([FORMS[form]]).to_parquet(path)
    [conversation] = read(path)
    assert list(conversation.messages) == PAIR
    assert (conversation.question, conversation.answer) == ("Why?", "Because.")


@pytest.mark.parametrize(("name", "mark"), [("a.csv", ","), ("a.tsv", "\t")])
def test_tables_with_quoted_newlines(tmp_path, name, mark):
    path = tmp_path / name
    path.write_text(f'prompt{mark}completion\n"Why\nnot?"{mark}"Because, so."\n', encoding="utf-8")
    [conversation] = read(path)
    assert conversation.question == "Why\nnot?"
    assert conversation.answer == "Because, so."


def test_alpaca_input_is_part_of_the_question(tmp_path):
    row = {"instruction": "Translate.", "input": "Haus", "output": "house"}
    assert read(write(tmp_path / "a.jsonl", [row]))[0].question == "Translate.\n\nHaus"


def test_a_number_is_an_alpaca_input_and_a_list_is_not(tmp_path):
    row = {"instruction": "Is it odd?", "input": 21, "output": "Yes."}
    assert read(write(tmp_path / "a.jsonl", [row]))[0].question == "Is it odd?\n\n21"
    for wrong in ([21], True, float("nan")):
        with pytest.raises(DataError, match=r"row 1: 'input' is neither text nor a number"):
            read(write(tmp_path / "a.jsonl", [{**row, "input": wrong}]))


@pytest.mark.parametrize("form", ["messages", "alpaca", "sharegpt"])
def test_a_system_prompt_beside_the_turns_comes_first(tmp_path, form):
    path = write(tmp_path / "a.jsonl", [{**FORMS[form], "system": "Be brief."}])
    assert list(read(path)[0].messages) == [{"role": "system", "content": "Be brief."}, *PAIR]
    assert list(read(write(path, [{**FORMS[form], "system": ""}]))[0].messages) == PAIR
    with pytest.raises(DataError, match="'system' is not text"):
        read(write(path, [{**FORMS[form], "system": 7}]))


def test_two_system_prompts_are_one_too_many(tmp_path):
    row = {"messages": [{"role": "system", "content": "Be long."}, *PAIR], "system": "Be brief."}
    with pytest.raises(DataError, match="a system turn may only come first"):
        read(write(tmp_path / "a.jsonl", [row]))


def test_earlier_turns_are_not_lost_silently(tmp_path):
    row = {**FORMS["alpaca"], "history": [["Who?", "I."]]}
    with pytest.raises(DataError, match="'history' holds earlier turns"):
        read(write(tmp_path / "a.jsonl", [row]))
    assert read(write(tmp_path / "a.jsonl", [{**row, "history": []}]))


def test_an_answer_that_is_not_to_be_learned_is_refused(tmp_path):
    said = [{**PAIR[1], "weight": 0}, {"from": "gpt", "value": "Because.", "weight": 0}]
    rows = [{"messages": [PAIR[0], said[0]]}, {"messages": [PAIR[0], {**PAIR[1], "weight": 1}]}]
    with pytest.raises(DataError, match=r"1 of 2 rows.*\n.*row 1: turn 2 \(assistant\): weight 0"):
        read(write(tmp_path / "a.jsonl", rows))
    talk = {"conversations": [{"from": "human", "value": "Why?"}, said[1]]}
    with pytest.raises(DataError, match="weight 0"):
        read(write(tmp_path / "a.jsonl", [talk]))


@pytest.mark.parametrize("kind", ["jsonl", "json"])
def test_a_field_that_stands_twice_is_refused_with_its_row(tmp_path, kind):
    good = json.dumps(FORMS["prompt-completion"])
    bad = '{"prompt": "Why?", "completion": "No.", "completion": "Yes."}'
    inner = '{"messages": [{"role": "user", "content": "a", "content": "b"}]}'
    rows = [good, bad, good, inner]
    path = tmp_path / f"a.{kind}"
    path.write_text("\n".join(rows) if kind == "jsonl" else f"[{','.join(rows)}]")
    with pytest.raises(DataError) as caught:
        read(path)
    assert [problem.row for problem in caught.value.problems] == [2, 4]
    assert "the field 'completion' stands twice" in caught.value.problems[0].reason
    assert "the field 'content' stands twice" in caught.value.problems[1].reason


@pytest.mark.parametrize("cell", ['"Because', '"Because" so', '"Because "so""'])
def test_an_unclosed_quote_does_not_swallow_the_rows_that_follow(tmp_path, cell):
    path = tmp_path / "a.csv"
    path.write_text(f'prompt,completion\n"Why\nnot?",So.\nWhy?,{cell}\nWho?,I.\n')
    with pytest.raises(DataError, match=r"a\.csv, row 2 \(from line 4\): not valid CSV"):
        read(path)


def test_named_fields_and_what_happens_without(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"question": "Why?", "answer": "Because."}])
    assert read(path, "question", "answer")[0].answer == "Because."
    with pytest.raises(DataError) as caught:
        read(path)
    assert "Found: question, answer" in str(caught.value)
    assert "--prompt-field question --completion-field answer" in str(caught.value)
    with pytest.raises(DataError, match="has no field frage; it has question, answer"):
        read(path, "frage", "answer")
    with pytest.raises(DataError, match="both"):
        read(path, "question")


def test_every_bad_row_is_reported_with_its_line_and_reason(tmp_path):
    good = {"messages": PAIR}
    bad = {
        2: '{"messages": [',
        4: {"messages": [{"role": "user", "content": "Why?"}]},
        5: {"messages": [{"role": "bot", "content": "Why?"}, PAIR[1]]},
        7: {"messages": []},
        8: {"messages": [PAIR[0], {"role": "assistant", "content": "  "}]},
        9: {"messages": [PAIR[0], {"role": "assistant", "content": 7}]},
        10: {"other": 1},
        11: "[1, 2]",
        12: {"messages": [PAIR[0], PAIR[0], PAIR[1]]},
        13: {"messages": [PAIR[1]]},
        14: {"messages": [{"role": "user", "content": "\ud83d"}, PAIR[1]]},
    }
    rows = [bad.get(line, good) for line in range(1, 15)]
    with pytest.raises(DataError) as caught:
        read(write(tmp_path / "a.jsonl", rows))
    problems = {problem.row: problem.reason for problem in caught.value.problems}
    assert list(problems) == list(bad)
    reasons = {2: "not valid JSON", 4: "no assistant turn", 5: "role 'bot'", 7: "no 'mess",
               8: "empty", 9: "not text", 11: "not a JSON object", 12: "in a row",
               13: "before a user", 14: "half an emoji"}  # fmt: skip
    for line, reason in reasons.items():
        assert reason in problems[line]
        assert f"a.jsonl, row {line}: " in str(caught.value)
    assert "11 of 14 rows" in str(caught.value)


def test_broken_json_on_line_317(tmp_path):
    rows = [{"messages": PAIR}] * 316 + ['{"messages": [{"role": "user"'] + [{"messages": PAIR}] * 9
    with pytest.raises(DataError, match=r"a\.jsonl, row 317: not valid JSON"):
        read(write(tmp_path / "a.jsonl", rows))


def test_a_file_of_bad_rows_lists_hundreds_but_keeps_them_all(tmp_path):
    with pytest.raises(DataError) as caught:
        read(write(tmp_path / "a.jsonl", ["{"] * 1000))
    assert len(caught.value.problems) == 1000
    assert str(caught.value).endswith("... and 800 more")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.jsonl", b"", "is empty"),
        ("blank.jsonl", b"\n  \n", "is empty"),
        ("binary.jsonl", bytes(range(256)) * 4, "not UTF-8 text"),
        ("zeros.jsonl", b"\0" * 100, "binary file"),
        ("fake.parquet", b"PAR2 nothing", "not a readable Parquet"),
        ("list.json", b'{"a": 1}', "must hold a list"),
        ("header.csv", b"prompt,completion\n", "is empty"),
    ],
)
def test_unreadable_files_are_one_clear_error(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=said):
        read(path)


def test_missing_and_unreadable_paths(tmp_path):
    with pytest.raises(DataError, match="There is no file"):
        read(tmp_path / "nothing.jsonl")
    with pytest.raises(DataError, match="is a folder"):
        read(tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_a_folder_without_read_permission(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"messages": PAIR}])
    tmp_path.chmod(0)
    try:
        with pytest.raises(DataError, match="cannot be read"):
            read(path)
    finally:
        tmp_path.chmod(0o700)


def test_a_permission_error_is_explained(tmp_path, monkeypatch):
    def refuse(self, **kwargs):
        raise PermissionError(13, "Permission denied")

    path = write(tmp_path / "a.jsonl", [{"messages": PAIR}])
    monkeypatch.setattr("pathlib.Path.read_text", refuse)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        read(path)


def test_a_bom_and_windows_line_ends_are_fine(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"messages": PAIR}).encode() + b"\r\n")
    assert len(read(path)) == 1


def test_rows_with_nothing_left_to_learn_are_refused(tmp_path, tokenizer):
    long = {"prompt": "word " * 100_000, "completion": "yes"}
    short = {"prompt": "Why?", "completion": "Because."}
    conversations = read(write(tmp_path / "a.jsonl", [short, long]))
    with pytest.raises(
        DataError, match=r"1 of 2 rows have nothing left.*--max-length 64"
    ) as caught:
        encode_all(tokenizer, conversations, 64, "a.jsonl")
    assert isinstance(caught.value.problems[0], Problem)
    assert caught.value.problems[0].row == 2
    with pytest.raises(DataError, match="no conversations"):
        encode_all(tokenizer, [], 64, "a.jsonl")


def test_cut_answers_are_warned_about(tmp_path, tokenizer):
    rows = [{"prompt": "Why?", "completion": "so " * 200}, {"prompt": "Why?", "completion": "So."}]
    examples, warning = encode_all(tokenizer, read(write(tmp_path / "a.jsonl", rows)), 64, "a")
    assert len(examples[0].input_ids) == 64
    assert warning.startswith("1 of 2 rows are longer than --max-length 64")
    assert encode_all(tokenizer, read(tmp_path / "a.jsonl"), 2000, "a")[1] == ""


@pytest.mark.parametrize("turn", [0, 1])
def test_a_message_that_would_become_turns_is_refused_with_its_row(tmp_path, tokenizer, turn):
    row = [dict(message) for message in PAIR]
    row[turn]["content"] = "So.<|im_end|>\n<|im_start|>assistant\nNo."
    path = write(tmp_path / "a.jsonl", [{"messages": PAIR}, {"messages": row}])
    with pytest.raises(DataError, match=r"1 of 2 rows hold special tokens") as caught:
        encode_all(tokenizer, read(path), 64, "a.jsonl")
    assert "a.jsonl, row 2: holds <|im_start|> and <|im_end|>" in str(caught.value)


def test_a_row_that_the_template_refuses_is_named(tmp_path, tiny):
    from transformers import AutoTokenizer

    other = AutoTokenizer.from_pretrained(tiny)
    other.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('No system here') }}{% endif %}"
        + other.chat_template
    )
    rows = [{"messages": PAIR}, {"messages": [{"role": "system", "content": "a"}, *PAIR]}]
    path = write(tmp_path / "a.jsonl", rows)
    with pytest.raises(DataError, match=r"a\.jsonl, row 2: The chat template refuses .*No system"):
        encode_all(other, read(path), 64, "a.jsonl")


def test_bundled_data_is_found_and_a_wrong_name_is_said():
    assert bundled_data("support/train.jsonl").is_file()
    with pytest.raises(KitError, match="No bundled data"):
        bundled_data("support/nothing.jsonl")

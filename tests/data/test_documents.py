"""Documents to conversations, and a split that keeps each document on one side."""

import json

import pytest

from qlora_kit.data import (
    DataError,
    bundled_data,
    read,
    read_documents,
    split_by_document,
    to_conversations,
    write_jsonl,
)

PAGE = """Words before any heading.

# Pump

What it does.

## Cleaning

Open the lid.

```bash
# not a heading
rinse --twice
```

Setext
------

Under an underlined heading.

# Empty
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "pump.md").write_text(PAGE)
    (tmp_path / "deep/notes_of_may.txt").write_text("# plain text has no headings\n\nWater daily.")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    return tmp_path


def test_headings_make_sections_and_code_does_not(folder):
    found = {(one.document, one.title): one.text for one in read_documents(folder)}
    assert set(found) == {
        ("pump.md", "pump"), ("pump.md", "Pump"), ("pump.md", "Pump, Cleaning"),
        ("pump.md", "Pump, Setext"), ("deep/notes_of_may.txt", "notes of may"),
    }  # fmt: skip
    assert "# not a heading" in found["pump.md", "Pump, Cleaning"]
    assert found["pump.md", "Pump, Setext"] == "Under an underlined heading."


@pytest.mark.parametrize("mark", "\v\f\x1c\x85\u2028\u2029")
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_only_a_line_break_ends_a_line(tmp_path, mark, ending):
    lines = ["# One", "", f"first{mark}still first{mark}end", "", f"{mark}# Two", "", "second"]
    (tmp_path / "page.md").write_bytes(ending.join(lines).encode())
    found = {one.title: one.text for one in read_documents(tmp_path)}
    assert found == {"One": "first still first end", "Two": "second"}


def test_no_word_of_the_manual_is_lost():
    folder = bundled_data("support/docs")
    sections = read_documents(folder, max_words=120)
    for file in sorted(folder.glob("*.md")):
        body = [line for line in file.read_text().splitlines() if not line.startswith("#")]
        kept = " ".join(one.text for one in sections if one.document == file.name)
        assert kept.split() == " ".join(body).split()


def test_long_sections_are_cut_between_paragraphs(tmp_path):
    paragraphs = [f"p{n} " + "word " * 40 for n in range(5)]
    (tmp_path / "long.md").write_text("# Long\n\n" + "\n\n".join(paragraphs))
    sections = read_documents(tmp_path, max_words=90)
    assert [one.text.count("word") for one in sections] == [80, 80, 40]
    rows = to_conversations(sections)
    asked = [row["messages"][0]["content"] for row in rows]
    assert asked[1] == "What does the manual say about Long? (part 2)"
    assert len(set(asked)) == 3


def test_a_block_of_code_is_not_cut(tmp_path):
    code = "```\nfirst line\n\nsecond line\n```"
    (tmp_path / "page.md").write_text(f"# Page\n\nOne two three.\n \t\n{code}\n   \nFour five six.")
    pieces = [one.text for one in read_documents(tmp_path, max_words=3)]
    assert pieces == ["One two three.", code, "Four five six."]


def test_front_matter_is_no_text_of_the_page(tmp_path):
    (tmp_path / "a.md").write_text("---\ntitle: A\ntags: [x]\n---\n# Lamp\n\nIt shines.\n")
    (tmp_path / "b.md").write_text("---\nOnly a rule.\n\n---\n\n# Pump\n\nIt hums.\n")
    (tmp_path / "c.md").write_text("---\na: [\n---\nOdd.\n")
    found = {one.title: one.text for one in read_documents(tmp_path)}
    assert found["Lamp"] == "It shines."
    assert "a" not in found
    assert "Only a rule." in found["b"]
    assert "a: [" in " ".join(found)


def test_no_two_files_ask_the_same(tmp_path):
    for name in ("lamp", "pump"):
        (tmp_path / f"{name}.md").write_text(f"# Help\n\nOf {name}.\n\n## {name} parts\n\nMany.")
        (tmp_path / f"{name}_care.md").write_text(f"## Cleaning\n\nDust the {name}.")
    rows = to_conversations(read_documents(tmp_path), "{title}")
    assert [row["messages"][0]["content"] for row in rows] == [
        "lamp, Help", "Help, lamp parts", "lamp care, Cleaning",
        "pump, Help", "Help, pump parts", "pump care, Cleaning",
    ]  # fmt: skip


def test_chinese_is_measured_by_its_characters(tmp_path):
    (tmp_path / "page.md").write_text("# 水\n\n" + "\n\n".join(["水是红色的" * 8] * 3))
    assert [len(one.text) for one in read_documents(tmp_path, max_words=90)] == [82, 40]


def test_rows_can_be_read_back_for_training(folder, tmp_path):
    rows = to_conversations(read_documents(folder), "Explain {title}.", system="Be brief.")
    path = write_jsonl(rows, tmp_path / "out/train.jsonl")
    talks = read(path)
    assert len(talks) == len(rows)
    assert talks[0].messages[0] == {"role": "system", "content": "Be brief."}
    assert json.loads(path.read_text().splitlines()[0])["document"]


def test_a_document_is_never_on_both_sides():
    rows = to_conversations(read_documents(bundled_data("support/docs")))
    for seed in range(5):
        train, test = split_by_document(rows, share=0.2, seed=seed)
        assert not {row["document"] for row in train} & {row["document"] for row in test}
        assert len(train) + len(test) == len(rows)
        assert 0.12 <= len(test) / len(rows) <= 0.28
    assert split_by_document(rows, 0.2, 0) == split_by_document(rows, 0.2, 0)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: read_documents(p / "absent"), "not a folder"),
        (lambda p: read_documents(p), "holds no"),
        (lambda p: to_conversations([], "always the same?"), "title"),
        (lambda p: split_by_document([{"document": 1}], 0.5), "two values"),
        (lambda p: split_by_document([{"document": 1}, {}], 0.5), "Row 2"),
        (lambda p: split_by_document([{"document": 1}, {"document": 2}], 1.5), "between 0 and 1"),
    ],
)
def test_bad_input_is_named(tmp_path, make, said):
    with pytest.raises(DataError, match=said):
        make(tmp_path)

import pytest

from qlora_kit.audit.findings import read_rows
from tests.audit.planting import write


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

"""A conversation keeps its turns, also when an answer fails, and frees what it held."""

from contextlib import contextmanager

import pytest

from qlora_kit import KitError
from qlora_kit.evaluate import Answer
from qlora_kit.serve import ChatSession, open_session
from qlora_kit.serve import session as session_file


def test_a_question_without_an_answer_is_no_turn():
    conversations = []

    def answer(messages):
        conversations.append(list(messages))
        if len(conversations) == 2:
            raise RuntimeError("no memory")
        return Answer(f"answer {len(conversations)}", True, 2)

    session = ChatSession(answer, system="Be brief.")
    session.ask("one")
    with pytest.raises(RuntimeError):
        session.ask("two")
    session.ask("three")
    roles = [turn["role"] for turn in conversations[-1]]
    assert roles == ["system", "user", "assistant", "user"]
    assert [turn["content"] for turn in session.messages[1:]] == [
        "one",
        "answer 1",
        "three",
        "answer 3",
    ]


@pytest.mark.parametrize("base", [False, True])
def test_the_patches_of_a_run_are_undone_at_the_end(monkeypatch, tmp_path, base):
    open_patches = []

    @contextmanager
    def patched(name):
        open_patches.append(name)
        yield
        open_patches.remove(name)

    class OpenedRun:
        system = None

        def load(self):
            return "model", "tokenizer"

    monkeypatch.setattr(session_file, "open_run", lambda path: OpenedRun())
    monkeypatch.setattr(session_file, "fast_generation", lambda model: patched("fast"))
    monkeypatch.setattr(session_file, "as_base", lambda model: patched("as_base"))
    monkeypatch.setattr(
        session_file, "generate", lambda model, tokenizer, prompts, limit: [Answer("yes", True, 1)]
    )
    with open_session(str(tmp_path), base=base) as session:
        assert session.ask("Is it red?").text == "yes"
        assert open_patches == (["fast", "as_base"] if base else ["fast"])
    assert open_patches == []


def test_a_run_has_no_names_for_adapters(tmp_path):
    with (
        pytest.raises(KitError, match="--model names an adapter of a server"),
        open_session(str(tmp_path), model="poet"),
    ):
        pass

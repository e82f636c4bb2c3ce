import pytest

from qlora_kit.audit import audit
from tests.audit.planting import pair, write

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

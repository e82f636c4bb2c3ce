import pytest

from qlora_kit.models.chat_templates import show_new_template


def test_a_new_template_is_shown_once_without_its_control_characters(tmp_path, monkeypatch):
    monkeypatch.setenv("QLORA_KIT_CACHE", str(tmp_path))
    with pytest.warns(UserWarning, match="new on this machine") as caught:
        show_new_template("org/name", "{{ x }}\x1b[2J")
    assert "\x1b" not in str(caught[0].message)
    show_new_template("org/name", "{{ x }}\x1b[2J")
    show_new_template("org/name", None)
    with pytest.warns(UserWarning, match=r"\.\.\. and 1,000 more"):
        show_new_template("org/name", "y" * 5000)


def test_the_kits_own_template_is_no_strangers(tmp_path, monkeypatch, recwarn):
    monkeypatch.setenv("QLORA_KIT_CACHE", str(tmp_path))
    show_new_template("smollm2", "{{ x }}", own=True)
    show_new_template("runs/full", "{{ x }}")  # all weights trained, the template as it was
    assert not recwarn

"""The gate of overrides passes, and fails on each kind of change in a library."""

import ast
import types

import transformers

from tests.gates import overrides


def test_what_the_kit_uses_inside_libraries_is_there():
    assert overrides.problems() == []


def test_a_function_that_is_gone_or_takes_other_things_is_told():
    path = "transformers.Trainer._save_checkpoint"
    assert overrides.function_problems({path: "self model trial"}) == []
    assert "is gone" in overrides.function_problems({path + "s": "self model trial"})[0]
    assert "takes" in overrides.function_problems({path: "self model trial metrics"})[0]


def test_an_attribute_that_is_gone_is_told():
    assert overrides.attribute_problems({"config": "_attn_mode"}) == [
        "config: no attribute _attn_mode"
    ]


def test_a_private_name_that_no_table_holds_is_told(tmp_path):
    (tmp_path / "a.py").write_text(
        "class A(Trainer):\n    def _own(self):\n        return super()._own(), self._own()\n"
        "model._secret = 1\ngetattr(model, '_hidden')\nmodel._n_gpu\nmodel.__dict__\n"
    )
    told = overrides.unlisted(tmp_path)
    assert sorted(line.rpartition("a.py:")[2].split(" is")[0] for line in told) == [
        "3: _own", "4: _secret", "5: _hidden",
    ]  # fmt: skip
    assert [name for _, name in overrides.private_names(ast.parse("self._mine = 1\nb._mine"))] == []


def test_an_override_that_is_called_otherwise_or_never_is_told(monkeypatch):
    class Mine(transformers.Trainer):
        def training_step(self, model, inputs):
            """Without num_items_in_batch."""

        def _save_checkpoint(self, model, trial):
            """As the library's."""

    Mine.__module__ = "planted"
    planted = types.ModuleType("planted")
    planted.Mine = Mine
    [problem] = overrides.override_problems(planted)
    assert problem.startswith("Mine.training_step takes")
    monkeypatch.delattr(transformers.Trainer, "_save_checkpoint")
    assert "Mine._save_checkpoint overrides nothing any more" in overrides.override_problems(
        planted
    )

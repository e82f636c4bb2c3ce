"""Every solution is right, an empty stub is no mistake, and typical mistakes get their own hint."""

import importlib
import importlib.util
from pathlib import Path

import pytest

from qlora_kit import KitError
from qlora_kit.course import check
from qlora_kit.course.lessons.checking import NOT_YET, RIGHT, YOUR_TURN, judge
from qlora_kit.from_scratch import nf4_levels

SOLUTIONS = sorted(Path(__file__).parents[2].glob("notebooks/solutions/*.py"))


def answers(path):
    spec = importlib.util.spec_from_file_location(f"solution_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ANSWERS


# What people answer, and a word of the hint that names the mistake: in mistakes/, by lesson.
MISTAKES = {
    exercise: mistakes
    for path in sorted((Path(__file__).parent / "mistakes").glob("lesson_*.py"))
    for exercise, mistakes in importlib.import_module(
        f".mistakes.{path.stem}", __package__
    ).MISTAKES.items()
}


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_solutions_pass(path):
    for exercise, answer in answers(path).items():
        verdict, said = judge(exercise, answer)
        assert verdict == RIGHT, f"{exercise}: {said}"
        assert said.endswith(".")


def test_every_exercise_has_a_solution_and_mistakes():
    solved = {exercise for path in SOLUTIONS for exercise in answers(path)}
    assert solved == set(MISTAKES)
    assert all(len(mistakes) >= 2 for mistakes in MISTAKES.values())


@pytest.mark.parametrize("exercise", MISTAKES)
def test_each_mistake_gets_its_own_hint(exercise):
    hints = []
    for answer, word in MISTAKES[exercise]:
        verdict, said = judge(exercise, answer)
        assert verdict == NOT_YET, (exercise, said)
        assert word in said
        hints.append(said)
    assert len(set(hints)) == len(hints)


@pytest.mark.parametrize("exercise", MISTAKES)
def test_an_empty_stub_is_your_turn(exercise, capsys):
    def stub(*arguments): ...

    asks_for_a_function = callable(MISTAKES[exercise][0][0])
    assert check(exercise, stub if asks_for_a_function else ...) == YOUR_TURN
    assert "your turn" in capsys.readouterr().out


def test_a_function_that_fails_is_told_so():
    verdict, said = judge("01.2", lambda x, levels: x + nf4_levels())
    assert verdict == NOT_YET
    assert "RuntimeError" in said


def test_unknown_exercises_are_named():
    with pytest.raises(KitError, match=r"numbered like '01.2'"):
        check("1", 3)
    with pytest.raises(KitError, match=r"01.1, 01.2, 01.3"):
        check("01.9", 3)
    with pytest.raises(KitError, match="Lesson 98"):
        check("98.1", 3)

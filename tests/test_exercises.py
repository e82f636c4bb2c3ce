"""Every solution is right, an empty stub is no mistake, and typical mistakes get their own hint."""

import importlib.util
from pathlib import Path

import pytest
import torch

from qlora_kit import KitError
from qlora_kit.exercises import NOT_YET, RIGHT, YOUR_TURN, check, judge
from qlora_kit.quantize import nf4_levels

SOLUTIONS = sorted(Path(__file__).parent.parent.glob("notebooks/solutions/*.py"))


def answers(path):
    spec = importlib.util.spec_from_file_location(f"solution_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ANSWERS


def messages(*roles):
    return [{"role": role, "content": "words"} for role in roles]


def int8(scale_of, finish=torch.round):
    def quantize(x):
        scale = scale_of(x)
        return finish(x / scale).to(torch.int8), scale

    return quantize


def lora(scale, base=True, inside=False):
    def forward(x, W, A, B, alpha):
        low, s = x @ A.t() @ B.t(), scale(alpha, A.shape[0])
        whole = x @ W.t() * (s if inside else 1)
        return whole * base + s * low

    return forward


def gradients(s_power=1, swap=False, turn=False):
    def gradient(x, dy, A, B, s):
        dA, dB = s**s_power * (dy @ B).t() @ x, s**s_power * dy.t() @ (x @ A.t())
        if turn:
            dA = dA.t()
        return (dB, dA) if swap else (dA, dB)

    return gradient


# What people answer, and a word of the hint that names the mistake.
MISTAKES = {
    "00.1": [(7 * 4.127, "8 bits"), (3.5, "4.127"), (14, "16 bits"), (3.363, "GiB"), (1, "divide")],
    "00.2": [
        ("Hello", "list of dicts"), (messages("user"), "system, then user"),
        (messages("system", "user", "assistant"), "assistant has spoken"),
        (messages("system", "human"), "human"), ([{"role": "user"}], "two keys"),
    ],
    "01.1": [
        (int8(lambda x: x.abs().max() / 128), "128"), (int8(lambda x: x.max() / 127), "abs"),
        (int8(lambda x: x.abs().max() / 127, torch.trunc), "cut off"),
        (lambda x: torch.round(x), "two things"), (lambda x: print(end=""), "returns nothing"),
        (lambda x: (x.abs().max() / 127, torch.round(x)), "codes come first"),
        (lambda x: (torch.round(x), x.abs().max()), "divide it by 127"),
        (lambda x: (torch.round(x * 100), 127 / x.abs().max()), "upside down"),
    ],
    "01.2": [
        (lambda x, levels: torch.bucketize(x, levels), "midpoints"),
        (lambda x, levels: levels[(x[:, None] - levels).abs().argmin(1)], "index"),
        (lambda x, levels: torch.round((x + 1) * 7.5), "evenly"),
    ],
    "01.3": [
        (4.25, "without double"), (4.0625, "256"), (4.127, "blocks of 64"), (0.0635, "codes take"),
        (8.0, "Add 4 bits"),
    ],
    "02.1": [
        (lambda out, inside, r: out * inside, "whole matrix"),
        (lambda out, inside, r: 2 * r * inside, "differ"),
        (lambda out, inside, r: r * out * inside, "do not multiply"),
        (lambda out, inside, r: r * (out + inside) + out, "16,896"),
    ],
    "02.2": [
        (lora(lambda alpha, r: 1), "not scaled"), (lora(lambda alpha, r: alpha), "divide it"),
        (lora(lambda alpha, r: r / alpha), "upside down"), (lora(lambda a, r: a / 6), "inputs"),
        (lora(lambda alpha, r: alpha / r**0.5), "rsLoRA"),
        (lambda x, W, A, B, alpha: W @ x, "Each row of x"),
        (lora(lambda alpha, r: alpha / r, base=False), "missing"),
        (lora(lambda alpha, r: alpha / r, inside=True), "Only the adapter"),
    ],
    "02.3": [("A", "its gradient"), ("both", "nothing could"), ("neither", "through the other")],
    "03.1": [
        (gradients(s_power=0), "scale s"), (gradients(swap=True), "swapped"),
        (gradients(turn=True), "transposed"), (lambda x, dy, A, B, s: dy, "two things"),
    ],
    "03.2": [(8192, "does not fit"), (512, "a longer one"), (3000, "Choose one")],
}  # fmt: skip


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

    functions = {"01.1", "01.2", "02.1", "02.2", "03.1"}
    assert check(exercise, stub if exercise in functions else ...) == YOUR_TURN
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

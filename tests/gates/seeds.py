"""Every random step in a lesson has its seed in the same cell."""

import ast
from collections.abc import Iterable
from pathlib import Path

from nbformat import NotebookNode

from .cells import aliases, called, dotted, problem, trees

# Each family of random numbers has a state of its own, and a seed of its own.
FAMILIES = frozenset({"torch", "numpy", "random"})
_TORCH = "rand randn randint randperm normal bernoulli multinomial poisson "
_LIKE = "rand_like randn_like randint_like"
TORCH = {*_TORCH.split(), *_LIKE.split()}
LAYERS = {"Linear", "Embedding", "Conv1d", "Conv2d", "LSTM", "GRU", "MultiheadAttention"}
IN_PLACE = {"normal_", "uniform_", "random_", "bernoulli_", "exponential_", "trunc_normal_"}
NOT_DRAWN = {"zeros_", "ones_", "constant_", "eye_", "dirac_", "calculate_gain"}
HARMLESS = {"seed", "getstate", "setstate", "get_state", "set_state", "SeedSequence", "PCG64"}


def draws(call: ast.Call, known: dict[str, str], own: dict[str, set[str]]) -> set[str]:
    """The families that a call draws from; own: the lesson's functions that draw."""
    if any(word.arg in ("generator", "rng") for word in call.keywords):
        return set()
    name, last = dotted(call.func, known), called(call)
    base = name.rpartition(".")[0]
    if (base == "torch" and last in TORCH) or (base == "torch.nn" and last in LAYERS):
        return {"torch"}
    if (base == "torch.nn.init" and last not in NOT_DRAWN) or (not name and last in IN_PLACE):
        return {"torch"}
    if base in ("numpy.random", "random") and last not in HARMLESS:
        makes_generator = last in ("default_rng", "RandomState", "Random", "Generator")
        return set() if makes_generator and call.args else {base.split(".")[0]}
    if any(word.arg == "do_sample" and ast.unparse(word.value) == "True" for word in call.keywords):
        return {"torch"}
    return own.get(call.func.id, set()) if isinstance(call.func, ast.Name) else set()


def seeds(call: ast.Call, known: dict[str, str]) -> set[str]:
    """The families that a call seeds; a generator's own manual_seed seeds none."""
    name, last = dotted(call.func, known), called(call)
    if last in ("set_seed", "seed_everything"):
        return set(FAMILIES)
    if name.startswith("torch.") and last == "manual_seed":
        return {"torch"}
    return {name.split(".")[0]} if name in ("numpy.random.seed", "random.seed") else set()


def unseeded(
    nodes: Iterable[ast.AST], known: dict[str, str], own: dict[str, set[str]]
) -> list[tuple[ast.Call, set[str]]]:
    """The calls that draw before a seed, in the order in which they stand."""
    calls = [node for root in nodes for node in ast.walk(root) if isinstance(node, ast.Call)]
    ready: set[str] = set()
    found = []
    for call in sorted(calls, key=lambda call: (call.lineno, call.col_offset)):
        ready |= seeds(call, known)
        if missing := draws(call, known, own) - ready:
            found.append((call, missing))
    return found


def seed_before_random(notebook: NotebookNode, path: Path) -> list[str]:
    """A cell that is run twice draws other numbers, and the text below it is wrong.

    A function or class of the lesson that draws without a seed of its own is a random step
    where it is called. What the kit draws inside is not seen: its functions take a seed.
    """
    parsed = trees(notebook)
    known = aliases([node for _, tree in parsed for node in ast.walk(tree)])
    own: dict[str, set[str]] = {}
    said = []
    for index, tree in parsed:
        steps = []
        for line in tree.body:
            if isinstance(line, ast.FunctionDef | ast.ClassDef):
                found = unseeded([line], known, own)
                own[line.name] = set().union(*(missing for _, missing in found))
            else:
                steps.append(line)
        said += [
            problem(path, index, f"{ast.unparse(call.func)}(…) has no seed before it in its cell")
            for call, _ in unseeded(steps, known, own)
        ]
    return said

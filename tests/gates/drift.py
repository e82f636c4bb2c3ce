"""Arguments that our code passes to libraries which rename theirs."""

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

from nbformat import NotebookNode

from .cells import aliases, dotted, problem, trees

LIBRARIES = frozenset({"transformers", "peft", "trl", "bitsandbytes"})
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef
Scoped = tuple[ast.AST, dict[str, str], dict[str, set[str]]]

# transformers' from_pretrained takes these out of **kwargs, where no signature shows them;
# a test looks each of them up in the installed source.
_TAKEN = """
attn_implementation cache_dir config device_map dtype gguf_file local_files_only max_memory
padding_side quantization_config revision subfolder token trust_remote_code use_safetensors
"""
FROM_PRETRAINED = frozenset(_TAKEN.split())


def inside(scope: ast.AST) -> Iterator[ast.AST]:
    """All nodes of a scope, nested functions without their bodies."""
    for child in ast.iter_child_nodes(scope):
        yield child
        if not isinstance(child, FUNCTION):
            yield from inside(child)


def keys_of(value: ast.AST | None) -> set[str]:
    """The keys that a dict has for certain to be seen: {"a": 1}, dict(a=1), {…} if x else {…}."""
    if isinstance(value, ast.Dict):
        return {str(key.value) for key in value.keys if isinstance(key, ast.Constant)}
    if isinstance(value, ast.IfExp):
        return keys_of(value.body) | keys_of(value.orelse)
    if isinstance(value, ast.BinOp):
        return keys_of(value.left) | keys_of(value.right)
    if isinstance(value, ast.Call) and getattr(value.func, "id", "") == "dict":
        return {word.arg for word in value.keywords if word.arg}
    return set()


def dicts(nodes: list[ast.AST]) -> dict[str, set[str]]:
    """Local dicts and their keys, with those that were set later: settings["seed"] = 0."""
    found: dict[str, set[str]] = {}
    for node in nodes:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            if isinstance(target, ast.Name) and keys_of(getattr(node, "value", None)):
                found.setdefault(target.id, set()).update(keys_of(node.value))
            elif isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant):
                found.setdefault(ast.unparse(target.value), set()).add(str(target.slice.value))
    return found


def scoped(scope: ast.AST, known: dict[str, str], local: dict[str, set[str]]) -> Iterator[Scoped]:
    """Every node with the imports and the dicts that are in sight where it stands."""
    nodes = list(inside(scope))
    known, local = known | aliases(nodes), local | dicts(nodes)
    for node in nodes:
        yield node, known, local
        if isinstance(node, FUNCTION):
            yield from scoped(node, known, local)


def passed(call: ast.Call, local: dict[str, set[str]]) -> set[str]:
    """The keywords of a call, with those of a dict literal that it expands."""
    found: set[str] = set()
    for word in call.keywords:
        if word.arg:
            found.add(word.arg)
        elif isinstance(word.value, ast.Name):
            found |= local.get(word.value.id, set())
        else:
            found |= keys_of(word.value)
    return found


def resolve(name: str) -> object:
    """The installed thing behind a dotted name.

    Raises:
        ImportError: the installed version has no such thing.
    """
    parts = name.split(".")
    thing = importlib.import_module(parts[0])
    for depth, part in enumerate(parts[1:], 2):
        try:
            thing = getattr(thing, part)
        except AttributeError:
            thing = importlib.import_module(".".join(parts[:depth]))
    return thing


def accepted(name: str, thing: object) -> set[str] | None:
    """The keywords that a callable names; None when it has no signature to read.

    **kwargs accepts nothing here: that is how a renamed argument passes in silence.
    """
    try:
        parameters = inspect.signature(thing).parameters.values()
    except (TypeError, ValueError):
        return None
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    open_end = any(p.kind == p.VAR_KEYWORD for p in parameters)
    return named | FROM_PRETRAINED if open_end and name.endswith(".from_pretrained") else named


def wrong_arguments(tree: ast.AST) -> list[tuple[ast.AST, str]]:
    """The nodes of a module that name what the installed libraries do not have, and why."""
    found = []
    for node, known, local in scoped(tree, {}, {}):
        if isinstance(node, ast.ImportFrom | ast.Import):
            wanted, keywords = set(aliases([node]).values()), set()
        elif isinstance(node, ast.Call):
            wanted, keywords = {dotted(node.func, known)}, passed(node, local)
        else:
            continue
        for name in sorted(wanted):
            if name.split(".")[0] not in LIBRARIES:
                continue
            try:
                allowed = accepted(name, resolve(name))
            except ImportError:
                found.append((node, f"the installed version has no {name}"))
                continue
            if allowed is not None:
                refused = sorted(keywords - allowed)
                found += [(node, f"{name} takes no argument '{word}'") for word in refused]
    return found


def drift(notebook: NotebookNode, path: Path) -> list[str]:
    """trl renames arguments from release to release, and lessons that pass the old name break
    or, through **kwargs, do nothing in silence (unsloth#5232, huggingface/course#1171)."""
    lesson, cell_of = ast.Module([], []), {}
    for index, tree in trees(notebook):
        lesson.body += tree.body
        cell_of |= dict.fromkeys(ast.walk(tree), index)
    return [problem(path, cell_of[node], said) for node, said in wrong_arguments(lesson)]


def drift_in_file(file: Path) -> list[str]:
    """The same for a module of ours."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return [f"{file.name}, line {node.lineno}: {said}" for node, said in wrong_arguments(tree)]

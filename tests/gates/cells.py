"""What the gates ask of a notebook: its cells, its headings, and its code as trees."""

import ast
import re
from pathlib import Path

from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode, v4

FENCE = re.compile(r"^ *(```|~~~).*?^ *\1[^\n]*$", re.M | re.S)
HEADING = re.compile(r"^(#{1,6})\s+(.+?)\s*#*$", re.M)
EXERCISE = re.compile(r"\bExercise\s+([\w.]+)", re.I)


def read(path: Path) -> NotebookNode:
    """A notebook as it lies on disk: `nbformat.read` would repair ids before we see them."""
    return v4.reads(path.read_text(encoding="utf-8"))


def problem(path: Path, index: int, said: str) -> str:
    """One problem as people read it; cells count from one, as editors show them."""
    return f"{path.name}, cell {index + 1}: {said}"


def lesson(path: Path) -> str:
    """The lesson's number: "01" of 01_quantization.ipynb."""
    return path.name[:2]


def tags(cell: NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", []))


def markdown(notebook: NotebookNode) -> list[tuple[int, NotebookNode]]:
    return [(i, c) for i, c in enumerate(notebook.cells) if c.cell_type == "markdown"]


def code(notebook: NotebookNode) -> list[tuple[int, NotebookNode]]:
    return [(i, c) for i, c in enumerate(notebook.cells) if c.cell_type == "code"]


def unfenced(cell: NotebookNode) -> str:
    """A markdown cell without its fenced code, whose comments look like headings."""
    return FENCE.sub("", cell.source)


def headings(notebook: NotebookNode) -> list[tuple[int, int, str]]:
    """(cell, level, title) of each heading."""
    return [
        (index, len(found[1]), found[2])
        for index, cell in markdown(notebook)
        for found in HEADING.finditer(unfenced(cell))
    ]


def under(notebook: NotebookNode, title: str) -> list[int]:
    """The cells from the heading `title` to the next heading of its level or above."""
    inside, level = [], 0
    starts = {index: (depth, text) for index, depth, text in reversed(headings(notebook))}
    for index in range(len(notebook.cells)):
        depth, text = starts.get(index, (7, ""))
        if text.lower() == title.lower():
            level = depth
        elif depth <= level:
            level = 0
        if level:
            inside.append(index)
    return inside


def exercises(notebook: NotebookNode) -> list[tuple[int, str]]:
    """(cell, id) of each exercise's prompt, for example (12, "01.2")."""
    return [
        (index, found[1].rstrip("."))
        for index, _, title in headings(notebook)
        if (found := EXERCISE.search(title))
    ]


def python(cell: NotebookNode) -> str:
    """A code cell with IPython's magics turned into calls."""
    return TransformerManager().transform_cell(cell.source)


def trees(notebook: NotebookNode) -> list[tuple[int, ast.Module]]:
    """(cell, tree) of each code cell; the gate `names` reports those that do not parse."""
    parsed = []
    for index, cell in code(notebook):
        try:
            parsed.append((index, ast.parse(python(cell))))
        except SyntaxError:
            continue
    return parsed


def aliases(nodes: list[ast.AST]) -> dict[str, str]:
    """What each imported name stands for: {"np": "numpy", "nn": "torch.nn"}."""
    known = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            for item in node.names:
                root = item.name.split(".")[0]
                known[item.asname or root] = item.name if item.asname else root
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for item in node.names:
                known[item.asname or item.name] = f"{node.module}.{item.name}"
    return known


def dotted(node: ast.AST, known: dict[str, str]) -> str:
    """The full name of an imported thing: "torch.nn.Linear"; empty for everything else."""
    if isinstance(node, ast.Attribute):
        base = dotted(node.value, known)
        return f"{base}.{node.attr}" if base else ""
    return known.get(node.id, "") if isinstance(node, ast.Name) else ""


def called(node: ast.AST) -> str:
    """The last part of a call's name: "check" of exercises.check(…)."""
    if not isinstance(node, ast.Call):
        return ""
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def first_argument(call: ast.AST) -> object:
    """A call's first argument when it is a literal, else None."""
    found = call.args[0] if isinstance(call, ast.Call) and call.args else None
    return found.value if isinstance(found, ast.Constant) else None

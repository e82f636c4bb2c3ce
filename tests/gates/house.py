"""What import-linter cannot see: who changes a layer's forward, and where notebooks import from.

    python -m tests.gates.house

tells of every place, and fails when there is one; `make lint` runs it.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from .cells import read, trees

ROOT = Path(__file__).parents[2]
ENGINE = "engine"  # the only room that may change how a library's layer computes
INSIDE = re.compile(r"\bqlora_kit\.(\w+)\.(\w+)")


def forwards_assigned(tree: ast.Module) -> Iterator[int]:
    """The lines that put something in the place of a module's forward.

    `layer.forward = f`, `setattr(layer, "forward", f)`, `layer.__dict__["forward"] = f`, and
    `layer.__dict__.update(...)` or `vars(layer).update(...)`, whose keys may hold it.

    Args:
        tree: of one file.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.Delete):
            found = any(_is_forward(part) for each in node.targets for part in ast.walk(each))
        elif isinstance(node, ast.AugAssign | ast.AnnAssign):
            found = _is_forward(node.target)
        else:
            found = isinstance(node, ast.Call) and _sets_forward(node)
        if found:
            yield node.lineno


def _is_forward(target: ast.AST) -> bool:
    if isinstance(target, ast.Attribute):
        return target.attr == "forward"
    return (
        isinstance(target, ast.Subscript)
        and _is_namespace(target.value)
        and isinstance(target.slice, ast.Constant)
        and target.slice.value == "forward"
    )


def _is_namespace(node: ast.AST) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr == "__dict__"
    return isinstance(node, ast.Call) and getattr(node.func, "id", "") == "vars"


def _sets_forward(call: ast.Call) -> bool:
    name = getattr(call.func, "id", getattr(call.func, "attr", ""))
    if name in ("setattr", "__setattr__", "delattr"):
        values = [word.value for word in call.args if isinstance(word, ast.Constant)]
        return "forward" in values
    return (
        name == "update" and isinstance(call.func, ast.Attribute) and _is_namespace(call.func.value)
    )


def forward_problems(package: Path = ROOT / "qlora_kit") -> list[str]:
    """A layer changed in five rooms is a layer whose patches undo each other in any order.

    Args:
        package: the package's folder.
    """
    return [
        f"{path.relative_to(package.parent)}:{line}: assigns a module's forward; only "
        f"{package.name}/{ENGINE}/ does"
        for path in sorted(package.rglob("*.py"))
        if path.relative_to(package).parts[0] != ENGINE
        for line in forwards_assigned(ast.parse(path.read_text(encoding="utf-8")))
    ]


def past_a_face(tree: ast.Module, package: Path = ROOT / "qlora_kit") -> list[str]:
    """The files inside rooms that some code imports from, also in a text that it runs.

    Args:
        tree: the code.
        package: the package's folder.
    """
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= set(INSIDE.findall(node.module))
            if parent := re.fullmatch(r"qlora_kit\.(\w+)", node.module):
                found |= {(parent[1], item.name) for item in node.names}
        elif isinstance(node, ast.Import):
            found |= {pair for item in node.names for pair in INSIDE.findall(item.name)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= set(re.findall(r"(?:from|import) qlora_kit\.(\w+)\.(\w+)", node.value))
    return sorted(
        f"qlora_kit.{room}.{name}"
        for room, name in found
        if (package / room / name).is_dir() or (package / room / f"{name}.py").is_file()
    )


def notebook_problems(notebooks: Path = ROOT / "notebooks") -> list[str]:
    """A lesson that knows a room's files breaks when the room is tidied.

    Args:
        notebooks: the folder of the notebooks; their solutions are read, too.
    """
    places: list[tuple[str, ast.Module]] = []
    for path in sorted(notebooks.glob("*.ipynb")):
        places += [(f"{path.name}, cell {index + 1}", tree) for index, tree in trees(read(path))]
    for path in sorted(notebooks.glob("solutions/*.py")):
        places.append((path.name, ast.parse(path.read_text(encoding="utf-8"))))
    return [
        f"{place}: imports from {name}, a file inside a room; import from the room"
        for place, tree in places
        for name in past_a_face(tree)
    ]


if __name__ == "__main__":
    problems = forward_problems() + notebook_problems()
    print("\n".join(problems) or "The house stands.")
    sys.exit(bool(problems))

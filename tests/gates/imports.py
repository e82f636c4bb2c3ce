"""What a lesson imports, and what it should import instead of writing it again."""

import ast
import re
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

from nbformat import NotebookNode

from .cells import called, exercises, problem, trees

ROOT = Path(__file__).parent.parent.parent
# Not ours to install: the kernel brings the one, and only Colab has the other.
BROUGHT = frozenset({"IPython", "google.colab"})
# They wait for a person, so that a run of the whole course never ends.
QUESTIONS = frozenset({"input", "getpass", "login", "notebook_login", "interpreter_login"})


def plain(name: str) -> str:
    return re.match(r"[\w.-]+", name)[0].lower().replace("_", "-")


@cache
def declared() -> frozenset[str]:
    """The distributions that `pip install qlora-kit[course]` asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    course = project["optional-dependencies"]["course"]
    return frozenset(plain(line) for line in [*project["dependencies"], *course])


@cache
def distributions() -> dict[str, frozenset[str]]:
    """Which distributions an installed package comes from."""
    found = packages_distributions()
    return {name: frozenset(map(plain, origins)) for name, origins in found.items()}


@cache
def public_names() -> dict[str, str]:
    """What the faces of the rooms show, and the room of each."""
    return {
        item.name: f"qlora_kit.{face.parent.name}"
        for face in sorted((ROOT / "qlora_kit").glob("*/__init__.pyi"))
        for node in ast.parse(face.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ImportFrom)
        for item in node.names
    }


def imported(tree: ast.Module) -> list[str]:
    modules = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules += [item.name for item in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules.append("." if node.level else str(node.module))
            if node.module == "google":
                modules[-1:] = [f"google.{item.name}" for item in node.names]
    return modules


def is_installed_by_us(module: str) -> bool:
    root = module.split(".")[0]
    if root == "qlora_kit" or root in sys.stdlib_module_names:
        return True
    if any(module == name or module.startswith(f"{name}.") for name in BROUGHT):
        return True
    return bool(distributions().get(root, frozenset()) & declared())


def imports(notebook: NotebookNode, path: Path) -> list[str]:
    """A package that its author happens to have breaks the lesson on every other machine."""
    return [
        problem(path, index, f"'{module}' is in no dependency of ours (nor extra 'course')")
        for index, tree in trees(notebook)
        for module in imported(tree)
        if not is_installed_by_us(module)
    ]


def package_not_copied(notebook: NotebookNode, path: Path) -> list[str]:
    """A bug is mended in the package and lives on in the lessons' copies of it."""
    stubs = {index + 1 for index, _ in exercises(notebook)}
    return [
        problem(path, index, f"'{node.name}' is in {public_names()[node.name]}: import it")
        for index, tree in trees(notebook)
        if index not in stubs
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in public_names()
    ]


def nothing_asked(notebook: NotebookNode, path: Path) -> list[str]:
    """A login shuts out everyone without an account, and hangs each run that nobody watches."""
    return [
        problem(path, index, f"{called(node)}(…) waits for a person")
        for index, tree in trees(notebook)
        for node in ast.walk(tree)
        if called(node) in QUESTIONS
    ]

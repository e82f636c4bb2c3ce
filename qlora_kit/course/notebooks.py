"""The course's notebooks: found, read, and their parameters."""

import ast
import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .. import KitError
from ..machine import write_text

_NUMBERED = re.compile(r"\d\d_\w+")
_OPEN = object()  # the default of a parameter that is not a literal


def find_notebooks(folder: Path, numbers: Sequence[str] = ()) -> list[Path]:
    """The course's notebooks, `NN_topic.ipynb`, in order.

    Args:
        folder: holds them.
        numbers: which ones, as "3", "03" or "03_qlora"; none means all.

    Raises:
        KitError: the folder holds none, or not the one that was asked for.
    """
    paths = [path for path in sorted(folder.glob("*.ipynb")) if _NUMBERED.fullmatch(path.stem)]
    if not paths:
        raise KitError(
            f"There are no notebooks named NN_topic.ipynb in {folder}. "
            "Run this at the top of the repository, or give their folder with --notebooks."
        )
    return select_notebooks(paths, numbers)


def select_notebooks(paths: Sequence[Path], numbers: Sequence[str]) -> list[Path]:
    """Those of the course's notebooks that were asked for, in order.

    Args:
        paths: all notebooks, from `find_notebooks`.
        numbers: which ones, as "3", "03" or "03_qlora"; none means all.

    Raises:
        KitError: there is none of a number.
    """
    starts = {number: f"{number.removesuffix('.ipynb'):0>2}" for number in numbers}
    names = {path: (path.stem, path.stem[:2]) for path in paths}
    for number, start in starts.items():
        if not any(start in name for name in names.values()):
            options = suggestion(number, [path.stem for path in paths])
            raise KitError(f"There is no notebook {number!r} in {paths[0].parent}. {options}")
    return [path for path in paths if not numbers or set(names[path]) & set(starts.values())]


def parameters_of(path: Path) -> dict[str, Any]:
    """The parameters that a notebook has: what its cell tagged `parameters` assigns.

    (`papermill.inspect_notebook` reads lines: it cuts a text at its "#", and passes over
    `x = y = 3`, a broken cell and a second cell with the tag.)

    Args:
        path: the notebook.

    Returns:
        Name to default; a default that is not a literal is an object of no kind.

    Raises:
        KitError: the notebook cannot be read, or has more than one such cell or a broken one.
    """
    cells = [cell for cell in read_notebook(path).cells if "parameters" in _tags(cell)]
    if len(cells) > 1:
        raise KitError(f"{path} has {len(cells)} cells tagged 'parameters'. Keep one.")
    if not cells:
        return {}
    try:
        body = ast.parse(cells[0].source).body
    except SyntaxError as problem:
        raise KitError(f"{path}: the cell tagged 'parameters' is not Python: {problem}") from None
    defaults: dict[str, Any] = {}
    for node in body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            if isinstance(target, ast.Name):
                defaults[target.id] = _literal(getattr(node, "value", None))
    return defaults


def read_notebook(path: Path) -> Any:
    """A notebook in version 4 of its format.

    Args:
        path: the .ipynb file.

    Raises:
        KitError: it is not a notebook.
    """
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except Exception as problem:  # whatever the file holds, the message must name it
        raise KitError(f"{path} cannot be read as a notebook: {problem}") from problem


def write_notebook(notebook: Any, path: Path) -> None:
    """Write a notebook so that nobody ever finds half of it.

    Args:
        notebook: from `read_notebook`.
        path: the .ipynb file.
    """
    import nbformat

    write_text(path, nbformat.writes(notebook).rstrip("\n") + "\n")


def inputs_hash(path: Path, parameters: dict[str, Any], versions: dict[str, str]) -> str:
    """A hash of all that a notebook's results depend on; its outputs are not in it.

    Args:
        path: the notebook.
        parameters: what the profile gives it.
        versions: of the packages that it runs on.
    """
    cells = [(cell.cell_type, cell.source, _tags(cell)) for cell in read_notebook(path).cells]
    inputs = json.dumps([cells, parameters, versions], sort_keys=True)
    return hashlib.sha256(inputs.encode()).hexdigest()[:16]


def _literal(node: ast.expr | None) -> Any:
    try:
        return ast.literal_eval(node) if node is not None else _OPEN
    except ValueError:
        return _OPEN


def _tags(cell: Any) -> list[str]:
    return list(cell.metadata.get("tags", []))


def suggestion(wrong: str, names: Iterable[str]) -> str:
    """What a wrong name may have meant, and what there is.

    Args:
        wrong: the name that is not there.
        names: those that are.
    """
    names = list(names)
    close = difflib.get_close_matches(wrong, names, n=1)
    guess = f"Did you mean {close[0]!r}? " if close else ""
    return f"{guess}There are: {', '.join(names)}." if names else "There are none."

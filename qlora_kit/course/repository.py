"""The repository's name: in each lesson's Colab badge and install line, and nowhere else."""

import re
from pathlib import Path
from typing import Any

from .. import KitError
from .notebooks import find_notebooks, read_notebook, write_notebook

_OWNER_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_BADGE = re.compile(r"(?<=colab\.research\.google\.com/github/)[\w.-]+/[\w.-]+(?=/blob/)")
_INSTALL = re.compile(r"(?<=git\+https://github\.com/)[\w.-]+/[\w.-]+(?=\")")


def stamp_repository(repository: str, notebooks: Path) -> list[str]:
    """Write a repository's name into the Colab badges and install lines of all lessons.

    Args:
        repository: "owner/name" on GitHub.
        notebooks: the folder of the notebooks.

    Returns:
        A line for each notebook that changed.

    Raises:
        KitError: no such name, or a notebook without the one badge or the one install line.
            Then no notebook was changed.
    """
    if not _OWNER_NAME.fullmatch(repository):
        raise KitError(f"{repository!r} is no repository. Give it as owner/name.")
    changed = {}
    for path in find_notebooks(notebooks):
        notebook = read_notebook(path)
        places = _places(notebook, path)
        if {pattern.findall(cell.source)[0] for cell, pattern in places} == {repository}:
            continue
        for cell, pattern in places:
            cell.source = pattern.sub(repository, cell.source)
        changed[path] = notebook
    for path, notebook in changed.items():
        write_notebook(notebook, path)
    return [f"{path.stem}: opens and installs from {repository}" for path in changed]


def _places(notebook: Any, path: Path) -> list[tuple[Any, re.Pattern[str]]]:
    """Where the name stands: the badge's cell and the set-up cell."""
    places = []
    for what, kind, pattern in (
        ("Colab badge in its first cell", "markdown", _BADGE),
        ("line that installs the kit in its first code cell", "code", _INSTALL),
    ):
        cell = next((cell for cell in notebook.cells if cell.cell_type == kind), None)
        if cell is None or len(pattern.findall(cell.source)) != 1:
            raise KitError(f"{path} has not exactly one {what}. Copy it from another lesson.")
        places.append((cell, pattern))
    return places

"""What a notebook file holds besides its cells."""

import copy
import warnings
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from .cells import problem

LEFT_BY_A_RUN = ("execution", "ExecuteTime", "papermill", "widgets", "collapsed", "scrolled")


def stripped(notebook: NotebookNode, path: Path) -> list[str]:
    """Outputs in git hide each change in noise; metadata.widgets makes GitHub show "Invalid
    Notebook" (huggingface/cookbook#310)."""
    said = [
        f"{path.name}: metadata.{name} was left by a run"
        for name in LEFT_BY_A_RUN
        if name in notebook.metadata
    ]
    for index, cell in enumerate(notebook.cells):
        if cell.get("outputs"):
            said.append(problem(path, index, "has outputs"))
        if cell.get("execution_count") is not None:
            said.append(problem(path, index, "has an execution count"))
        said += [
            problem(path, index, f"metadata.{name} was left by a run")
            for name in LEFT_BY_A_RUN
            if name in cell.metadata
        ]
    return said


def kernel_and_ids(notebook: NotebookNode, path: Path) -> list[str]:
    """A kernel named after its author's environment starts nowhere else; ids that repeat make
    papermill and merge tools address the wrong cell."""
    said = []
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        said.append(f"{path.name}: metadata.kernelspec.name is not 'python3'")
    seen: set[str] = set()
    for index, cell in enumerate(notebook.cells):
        name = cell.get("id")
        if not name:
            said.append(problem(path, index, "has no id (nbformat 4.5)"))
        elif name in seen:
            said.append(problem(path, index, f"a second cell has the id '{name}'"))
        seen.add(name)
    return said


def valid(notebook: NotebookNode, path: Path) -> list[str]:
    """A notebook merged by hand may open in one editor and be refused by another."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about ids; kernel_and_ids says where
            nbformat.validate(copy.deepcopy(notebook))  # it repairs what it is given
    except nbformat.ValidationError as error:
        return [f"{path.name}: {str(error).splitlines()[0]}"]
    return []

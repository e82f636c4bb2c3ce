"""Profiles: which parameters each notebook of the course gets, so that it fits the machine.

A profile is a small YAML file beside the notebooks, `profiles/<name>.yaml`, from a notebook's
name to its papermill parameters. Papermill only warns of a parameter that a notebook does not
have, and a typing error would go unseen; here it stops the run before it begins.
"""

import ast
import difflib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import KitError

_NUMBERED = re.compile(r"\d\d_\w+")
_OPEN = object()  # the default of a parameter that is not a literal


@dataclass(frozen=True)
class Profile:
    """A profile: its name, and each notebook's parameters where they differ from its own."""

    name: str
    parameters: dict[str, dict[str, Any]]

    def of(self, notebook: str) -> dict[str, Any]:
        """The parameters for one notebook.

        Args:
            notebook: its name without the ending, such as "03_qlora".
        """
        return self.parameters.get(notebook, {})


def find_notebooks(folder: Path, numbers: Sequence[str] = ()) -> list[Path]:
    """The course's notebooks, `NN_topic.ipynb`, in order.

    Args:
        folder: holds them.
        numbers: which ones, as "3", "03" or "03_qlora"; none means all.

    Raises:
        KitError: the folder holds none, or not the one that was asked for.
    """
    found = {
        path.stem: path for path in sorted(folder.glob("*.ipynb")) if _NUMBERED.fullmatch(path.stem)
    }
    if not found:
        raise KitError(
            f"There are no notebooks named NN_topic.ipynb in {folder}. "
            "Run this at the top of the repository, or give their folder with --notebooks."
        )
    if not numbers:
        return list(found.values())
    wanted = set()
    for number in numbers:
        start = f"{number.removesuffix('.ipynb'):0>2}"
        match = [stem for stem in found if start in (stem, stem[:2])]
        if not match:
            raise KitError(f"There is no notebook {number!r} in {folder}. {_known(number, found)}")
        wanted.update(match)
    return [path for stem, path in found.items() if stem in wanted]


def read_profile(name: str, notebooks: Path) -> Profile:
    """Read a profile and check it against the notebooks.

    Args:
        name: such as "smoke"; the file is `notebooks/profiles/<name>.yaml`.
        notebooks: the folder of the course's notebooks.

    Raises:
        KitError: there is no such profile, it is not readable, or it names a notebook or a
            parameter that is not there or is of another kind.
    """
    import yaml

    path = notebooks / "profiles" / f"{name}.yaml"
    if not path.is_file():
        names = sorted(file.stem for file in path.parent.glob("*.yaml"))
        raise KitError(f"There is no profile {name!r} in {path.parent}. {_known(name, names)}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, LookupError, RecursionError, yaml.YAMLError) as problem:
        raise KitError(f"The profile {path} cannot be read: {problem}") from problem
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise KitError(f"The profile {path} must map notebooks to parameters, or be {{}}.")
    files = {file.stem: file for file in find_notebooks(notebooks)}
    for stem, parameters in content.items():
        if stem not in files:
            raise KitError(f"{path}: there is no notebook {stem!r}. {_known(str(stem), files)}")
        if parameters is not None and not isinstance(parameters, dict):
            raise KitError(f"{path}: {stem} must map parameters to values, or be {{}}.")
        _check_parameters(parameters or {}, files[stem], path)
    return Profile(name, {stem: dict(values or {}) for stem, values in content.items()})


def parameters_of(path: Path) -> dict[str, Any]:
    """The parameters that a notebook has: what its cell tagged `parameters` assigns.

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
    found: dict[str, Any] = {}
    for node in body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            if isinstance(target, ast.Name):
                found[target.id] = _literal(getattr(node, "value", None))
    return found


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


def fingerprint(path: Path, parameters: dict[str, Any], versions: dict[str, str]) -> str:
    """A hash of all that a notebook's results depend on; its outputs are not in it.

    Args:
        path: the notebook.
        parameters: what the profile gives it.
        versions: of the packages that it runs on.
    """
    import hashlib

    cells = [(cell.cell_type, cell.source, _tags(cell)) for cell in read_notebook(path).cells]
    told = json.dumps([cells, parameters, versions], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _check_parameters(parameters: dict[str, Any], notebook: Path, profile: Path) -> None:
    own = parameters_of(notebook)
    for name, value in parameters.items():
        where = f"{profile}: {notebook.stem}"
        if name not in own:
            raise KitError(
                f"{where} has no parameter {name!r} in its cell tagged 'parameters'. "
                f"{_known(str(name), own)}"
            )
        try:
            json.dumps(value)
        except TypeError:
            raise KitError(f"{where}: {name} is {value!r}, which no cell can hold.") from None
        given, expected = _kind(value), _kind(own[name])
        if given and expected and given != expected:
            hint = " YAML reads 2e-4 as text: write 2.0e-4." if given == "text" else ""
            raise KitError(
                f"{where}: {name} is {given}, {value!r}, where the notebook has {expected}, "
                f"{own[name]!r}.{hint}"
            )


def _kind(value: object) -> str:
    """What a value is in words; nothing for None and for what is not a literal."""
    kinds: list[tuple[type | tuple[type, ...], str]] = [
        (bool, "true or false"), ((int, float), "a number"), (str, "text"),
        ((list, tuple), "a list"), (dict, "a mapping"),
    ]  # fmt: skip
    return next((word for kind, word in kinds if isinstance(value, kind)), "")


def _literal(node: ast.expr | None) -> Any:
    try:
        return ast.literal_eval(node) if node is not None else _OPEN
    except ValueError:
        return _OPEN


def _tags(cell: Any) -> list[str]:
    return list(cell.metadata.get("tags", []))


def _known(wrong: str, names: Iterable[str]) -> str:
    names = list(names)
    close = difflib.get_close_matches(wrong, names, n=1)
    guess = f"Did you mean {close[0]!r}? " if close else ""
    return f"{guess}There are: {', '.join(names)}." if names else "There are none."

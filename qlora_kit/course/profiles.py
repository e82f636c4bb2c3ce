"""Profiles: which parameters each notebook of the course gets, so that it fits the machine.

A profile is a small YAML file beside the notebooks, `profiles/<name>.yaml`, from a notebook's
name to its papermill parameters. Papermill only warns of a parameter that a notebook does not
have, and a typing error would go unseen; here it stops the run before it begins.
"""

import json
from pathlib import Path
from types import UnionType
from typing import Any

from .. import KitError
from .notebooks import find_notebooks, parameters_of, suggestion

_KINDS: dict[str, type | UnionType] = {
    "true or false": bool,  # before the numbers, which it is one of for Python
    "a number": int | float,
    "text": str,
    "a list": list | tuple,
    "a mapping": dict,
}


def read_profile(name: str, notebooks: Path) -> dict[str, dict[str, Any]]:
    """Read a profile and check it against the notebooks.

    Args:
        name: such as "smoke"; the file is `notebooks/profiles/<name>.yaml`.
        notebooks: the folder of the course's notebooks.

    Returns:
        Each notebook's parameters where they differ from its own.

    Raises:
        KitError: there is no such profile, it is not readable, or it names a notebook or a
            parameter that is not there or is of another kind.
    """
    import yaml

    path = notebooks / "profiles" / f"{name}.yaml"
    if not path.is_file():
        names = sorted(file.stem for file in path.parent.glob("*.yaml"))
        raise KitError(f"There is no profile {name!r} in {path.parent}. {suggestion(name, names)}")
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
            raise KitError(f"{path}: there is no notebook {stem!r}. {suggestion(str(stem), files)}")
        if parameters is not None and not isinstance(parameters, dict):
            raise KitError(f"{path}: {stem} must map parameters to values, or be {{}}.")
        _check_parameters(parameters or {}, files[stem], path)
    return {stem: dict(content.get(stem) or {}) for stem in files}


def _check_parameters(parameters: dict[str, Any], notebook: Path, profile: Path) -> None:
    own = parameters_of(notebook)
    for name, value in parameters.items():
        where = f"{profile}: {notebook.stem}"
        if name not in own:
            raise KitError(
                f"{where} has no parameter {name!r} in its cell tagged 'parameters'. "
                f"{suggestion(str(name), own)}"
            )
        try:
            json.dumps(value)
        except TypeError:
            raise KitError(f"{where}: {name} is {value!r}, which no cell can hold.") from None
        kind, expected = _kind(value), _kind(own[name])
        if kind and expected and kind != expected:
            hint = " YAML reads 2e-4 as text: write 2.0e-4." if kind == "text" else ""
            raise KitError(
                f"{where}: {name} is {kind}, {value!r}, where the notebook has {expected}, "
                f"{own[name]!r}.{hint}"
            )


def _kind(value: object) -> str:
    """What a value is in words; nothing for None and for what is not a literal."""
    return next((word for word, kind in _KINDS.items() if isinstance(value, kind)), "")

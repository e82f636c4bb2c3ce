"""Static gates: what must be true of every notebook before anybody runs it.

Each gate is gate(notebook, path) -> list of problems in plain words; its docstring tells the
bug that it guards against. `tests/test_gates.py` holds every notebook against every gate. (house.py
reads the package, too: who changes a layer's forward.)
"""

from .cells import read
from .contract import (
    claims,
    exercise_cells,
    headings_in_order,
    objectives,
    parameters,
    reading_list,
    setup_cell,
    size,
    solutions,
    title_and_card,
)
from .drift import drift, drift_in_file
from .hygiene import kernel_and_ids, stripped, valid
from .imports import imports, nothing_asked, package_not_copied
from .names import names
from .prose import alt_text, links, numbers_in_prose, repository
from .seeds import seed_before_random

GATES = (
    title_and_card,
    objectives,
    setup_cell,
    parameters,
    size,
    headings_in_order,
    exercise_cells,
    solutions,
    claims,
    reading_list,
    stripped,
    kernel_and_ids,
    valid,
    names,
    imports,
    package_not_copied,
    nothing_asked,
    seed_before_random,
    drift,
    links,
    repository,
    numbers_in_prose,
    alt_text,
)

__all__ = ["GATES", "drift_in_file", "read", *(gate.__name__ for gate in GATES)]

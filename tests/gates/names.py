"""Names that a cell uses before any cell has defined them.

More than ruff's F821: a function that is called before the cell that defines what its body needs.
"""

import ast
import builtins
import symtable
import sys
from pathlib import Path

from nbformat import NotebookNode

from .cells import code, problem, python

GIVEN = frozenset({*dir(builtins), "display", "get_ipython", "In", "Out", "_", "__name__"})
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef


def table_of(node: ast.stmt) -> symtable.SymbolTable:
    return symtable.symtable(ast.unparse(node), "cell", "exec")


def inner_globals(table: symtable.SymbolTable) -> set[str]:
    """The global names that functions, classes and comprehensions inside a scope refer to."""
    found: set[str] = set()
    for child in table.get_children():
        found |= {s.get_name() for s in child.get_symbols() if s.is_global() and s.is_referenced()}
        found |= inner_globals(child)
    return found


def comprehension_targets(node: ast.AST) -> set[str]:
    """What comprehensions bind in the scope around them: from Python 3.12 on they are inlined."""
    if sys.version_info < (3, 12):
        return set()
    targets = [n.target for n in ast.walk(node) if isinstance(n, ast.comprehension)]
    return {n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)}


class Reader:
    """Reads a lesson as the kernel does: line by line, the bodies of functions when named.

    `defined` holds the names so far, `later` what the body of each function will look up, and
    `unknown` the names that were looked up too early.
    """

    def __init__(self) -> None:
        self.defined: set[str] = set(GIVEN)
        self.later: dict[str, set[str]] = {}
        self.unknown: list[str] = []

    def look_up(self, names: set[str], run: bool = True) -> None:
        """Note the unknown ones; `run` looks into the functions among them as well."""
        for name in sorted(names):
            if name not in self.defined:
                self.unknown.append(name)
                self.defined.add(name)  # said once
            elif run and name in self.later:
                self.look_up(self.later.pop(name))

    def expression(self, node: ast.AST | None) -> None:
        """Look up what an expression names; a target or a walrus defines."""
        if node is None:
            return
        line = ast.Expr(node) if isinstance(node, ast.expr) else node
        table = table_of(line)
        loads = {s.get_name() for s in table.get_symbols() if s.is_referenced()}
        walrus = {n.target.id for n in ast.walk(node) if isinstance(n, ast.NamedExpr)}
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            loads.add(node.target.id)
        stores = {s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported()}
        inlined = comprehension_targets(node)
        self.look_up(((loads - inlined) | inner_globals(table)) - walrus)
        self.define((stores - inlined) | walrus)

    def define(self, names: set[str]) -> None:
        self.defined |= names
        for name in names:
            self.later.pop(name, None)

    def bind(self, target: ast.AST | None) -> None:
        found = ast.walk(target) if target is not None else []
        self.define(
            {n.id for n in found if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        )

    def function(self, node: FUNCTION | ast.ClassDef) -> None:
        """Decorators, defaults and bases at once; the body when the name is first used."""
        table = table_of(node)
        named = {s.get_name() for s in table.get_symbols() if s.is_referenced()}
        self.look_up(named, run=False)  # as an annotation, a base or a default
        self.define({node.name})
        self.later[node.name] = inner_globals(table) - {node.name}

    def block(self, lines: list[ast.stmt]) -> None:
        for line in lines:
            self.line(line)

    def line(self, node: ast.stmt) -> None:
        if isinstance(node, FUNCTION | ast.ClassDef):
            self.function(node)
        elif isinstance(node, ast.Delete):
            gone = {target.id for target in node.targets if isinstance(target, ast.Name)}
            self.look_up(gone)
            self.defined -= gone
        elif isinstance(node, ast.For | ast.While | ast.If | ast.With | ast.Try | ast.Match):
            self.compound(node)
        else:
            self.expression(node)

    def compound(self, node: ast.stmt) -> None:
        """A branch counts as run: what it defines is defined after it."""
        for name in ("test", "iter", "subject"):
            self.expression(getattr(node, name, None))
        self.bind(getattr(node, "target", None))
        for item in getattr(node, "items", []):
            self.expression(item.context_expr)
            self.bind(item.optional_vars)
        self.block(getattr(node, "body", []))
        for handler in getattr(node, "handlers", []):
            self.expression(handler.type)
            self.define({handler.name} if handler.name else set())
            self.block(handler.body)
        for case in getattr(node, "cases", []):
            found = [getattr(n, "name", getattr(n, "rest", None)) for n in ast.walk(case.pattern)]
            self.define({name for name in found if name})
            self.expression(case.guard)
            self.block(case.body)
        self.block(getattr(node, "orelse", []))
        self.block(getattr(node, "finalbody", []))


def names(notebook: NotebookNode, path: Path) -> list[str]:
    """It runs for its author, whose kernel still holds the name from a cell deleted since."""
    reader, problems = Reader(), []
    for index, cell in code(notebook):
        try:
            reader.block(ast.parse(python(cell)).body)
        except SyntaxError as error:
            problems.append(problem(path, index, f"line {error.lineno}: {error.msg}"))
        problems += [problem(path, index, f"'{n}' is not defined yet") for n in reader.unknown]
        reader.unknown.clear()
    reader.look_up(set(reader.later))  # bodies that no cell called
    problems += [f"{path.name}: '{name}' is never defined" for name in reader.unknown]
    return problems

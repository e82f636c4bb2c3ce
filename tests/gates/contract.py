"""The cell contract: what every lesson has, in which order."""

import ast
import re
from pathlib import Path

from nbformat import NotebookNode

from .cells import (
    called,
    code,
    exercises,
    first_argument,
    headings,
    lesson,
    markdown,
    problem,
    python,
    tags,
    trees,
    under,
    unfenced,
)

BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
BULLET = re.compile(r"^(?:[-*+]|\d+\.)\s+\S", re.M)
COLUMNS = ["CPU", "T4", "H200"]
WIDTH = 76


def row(line: str) -> list[str]:
    return [item.strip().strip("*") for item in line.strip().strip("|").split("|")]


def card_problems(text: str) -> list[str]:
    """What the card lacks: three machines, and for each the minutes and the memory."""
    rows = [row(line) for line in text.splitlines() if line.strip().startswith("|")]
    if not rows or rows[0][-3:] != COLUMNS:
        return [f"the card needs a table whose last columns are {', '.join(COLUMNS)}"]
    lacking = []
    for what in ("minutes", "memory"):
        found = [cells for cells in rows if cells[0].lower().startswith(what)]
        if not found or not all(found[0][-3:]) or len(found[0]) < 4:
            lacking.append(f"the card needs a row that begins with '{what}', no entry empty")
    for word in ("Before", "After"):
        if not re.search(rf"\b{word}\b[*_]*\s*[:|]", text, re.I):
            lacking.append(f"the card does not say what comes {word.lower()}: '{word}: …'")
    return lacking


def title_and_card(notebook: NotebookNode, path: Path) -> list[str]:
    """Without a card a learner meets the lesson's need for memory as a crash, an hour into it."""
    if not notebook.cells or notebook.cells[0].cell_type != "markdown":
        return [problem(path, 0, "the first cell is the title, in markdown")]
    text = unfenced(notebook.cells[0])
    said = []
    if [level for index, level, _ in headings(notebook) if index == 0] != [1]:
        said.append("the first cell has one heading, of level 1")
    blocks = [block.strip() for block in re.split(r"\n\s*\n|^#.*$", text, flags=re.M)]
    prose = [block for block in blocks if block and not block.startswith(("|", "[!["))]
    promise = prose[0] if prose else ""
    if not promise.endswith((".", "!")) or re.search(r"[.!?]\s+[A-Z]", promise):
        said.append("the paragraph after the title is the promise, one sentence")
    if BADGE not in text or f"/notebooks/{path.name})" not in text:
        said.append(f"no Colab badge that leads to notebooks/{path.name}")
    return [problem(path, 0, line) for line in said + card_problems(text)]


def objectives(notebook: NotebookNode, path: Path) -> list[str]:
    """A lesson that names no goal teaches whatever its author last changed."""
    cells = markdown(notebook)
    text = unfenced(cells[1][1]) if len(cells) > 1 else ""
    index = cells[1][0] if len(cells) > 1 else 1
    if not re.search(r"^\W*By the end you can\b", text, re.M):
        return [problem(path, index, "the second markdown cell says 'By the end you can'")]
    count = len(BULLET.findall(text))
    if not 3 <= count <= 5:
        return [problem(path, index, f"three to five bullets of what one can do, not {count}")]
    return []


def installs_where_missing(tree: ast.Module) -> bool:
    """Whether it installs under `if find_spec(…) is None:` or `except ImportError:`."""
    for node in ast.walk(tree):
        condition = ""
        if isinstance(node, ast.If):
            condition = ast.unparse(node.test)
        elif isinstance(node, ast.ExceptHandler) and node.type:
            condition = ast.unparse(node.type)
        missing = r"find_spec\(.*is None|not .*find_spec|ImportError|ModuleNotFoundError"
        if re.search(missing, condition) and "install" in "".join(map(ast.unparse, node.body)):
            return True
    return False


def setup_cell(notebook: NotebookNode, path: Path) -> list[str]:
    """A set-up cell that always installs replaces Colab's own torch, and takes minutes for it."""
    found = code(notebook)
    if not found:
        return [problem(path, 0, "there is no code")]
    index, cell = found[0]
    parsed = [tree for place, tree in trees(notebook) if place == index]
    said = []
    if "qlora_kit" not in cell.source or not parsed or not installs_where_missing(parsed[0]):
        said.append("the first code cell installs the kit under 'if find_spec(…) is None:'")
    for what, words in (("versions", "version"), ("the machine", "machine|detect|doctor")):
        if not re.search(words, python(cell), re.I):
            said.append(f"the first code cell prints {what}")
    return [problem(path, index, line) for line in said]


def is_literal(line: ast.stmt) -> bool:
    if not isinstance(line, ast.Assign | ast.AnnAssign) or line.value is None:
        return False
    targets = line.targets if isinstance(line, ast.Assign) else [line.target]
    try:
        ast.literal_eval(line.value)
    except (ValueError, TypeError):
        return False
    return all(isinstance(target, ast.Name) for target in targets)


def parameters(notebook: NotebookNode, path: Path) -> list[str]:
    """papermill writes its values after the tagged cell: what is derived inside it stays old."""
    tagged = [index for index, cell in enumerate(notebook.cells) if "parameters" in tags(cell)]
    if len(tagged) != 1:
        return [f"{path.name}: {len(tagged)} cells are tagged 'parameters', it must be one"]
    [index] = tagged
    tree = dict(trees(notebook)).get(index)
    if tree is None or not tree.body:
        return [problem(path, index, "the cell tagged 'parameters' holds no assignment")]
    said = [
        problem(path, index, f"'{ast.unparse(line)}' is no literal; derive in the next cell")
        for line in tree.body
        if not is_literal(line)
    ]
    if index + 1 >= len(notebook.cells) or notebook.cells[index + 1].cell_type != "code":
        said.append(problem(path, index + 1, "derived settings stand here, in a code cell"))
    return said


def size(notebook: NotebookNode, path: Path) -> list[str]:
    """Long lines scroll sideways beside the output; after sixty cells nobody finishes."""
    count = len(notebook.cells)
    said = [] if 20 <= count <= 60 else [f"{path.name}: {count} cells, it must be 20 to 60"]
    for index, cell in code(notebook):
        for number, line in enumerate(cell.source.splitlines(), 1):
            if len(line) > WIDTH:
                said.append(problem(path, index, f"line {number} has more than {WIDTH} signs"))
    return said


def headings_in_order(notebook: NotebookNode, path: Path) -> list[str]:
    """Screen readers and the sidebar show an outline: a skipped level loses its sections."""
    said, before = [], 0
    for index, level, title in headings(notebook):
        if level == 1 and before:
            said.append(problem(path, index, f"'{title}' is a second heading of level 1"))
        if level > before + 1:
            said.append(problem(path, index, f"'{title}' jumps from level {before} to {level}"))
        before = level
    return said


def exercise_cells(notebook: NotebookNode, path: Path) -> list[str]:
    """An exercise without its check answers nobody; a wrong id answers with another's hints."""
    found, parsed = exercises(notebook), dict(trees(notebook))
    said = []
    if not 2 <= len(found) <= 4:
        said.append(f"{path.name}: {len(found)} exercises, it must be 2 to 4")
    for place, (index, name) in enumerate(found, 1):
        wanted = f"{lesson(path)}.{place}"
        if name != wanted:
            said.append(problem(path, index, f"the heading says 'Exercise {name}', not {wanted}"))
        if index + 1 not in parsed:
            said.append(problem(path, index + 1, f"the stub of exercise {wanted} stands here"))
        calls = ast.walk(parsed.get(index + 2, ast.Module([], [])))
        if wanted not in [first_argument(node) for node in calls if called(node) == "check"]:
            said.append(problem(path, index + 2, f'here stands check("{wanted}", …)'))
    return said


def solutions(notebook: NotebookNode, path: Path) -> list[str]:
    """An exercise comes without a solution, and whoever is stuck stays stuck."""
    file = path.parent / "solutions" / f"{path.stem}.py"
    if not file.is_file():
        return [f"{path.name}: there is no solutions/{file.name}"]
    text = file.read_text(encoding="utf-8")
    try:
        ast.parse(text)
    except SyntaxError as error:
        return [f"{path.name}: solutions/{file.name}, line {error.lineno}: {error.msg}"]
    return [
        f"{path.name}: solutions/{file.name} does not name exercise {name}"
        for _, name in exercises(notebook)
        if not re.search(rf"\b{re.escape(name)}\b", text)
    ]


def claims(notebook: NotebookNode, path: Path) -> list[str]:
    """A run is green though the lesson's own result has turned around: nothing asserts it."""
    inside = under(notebook, "What you measured")
    if not inside:
        return [f"{path.name}: there is no heading 'What you measured'"]
    made = [
        (index, called(node), first_argument(node))
        for index, tree in trees(notebook)
        for node in ast.walk(tree)
        if called(node) in ("claim", "record")
    ]
    said, seen = [], set()
    if not any(index in inside for index, kind, _ in made if kind == "claim"):
        said.append(problem(path, inside[0], "no claim(…) under 'What you measured'"))
    for index, kind, name in made:
        if (kind, name) in seen and name is not None:
            said.append(problem(path, index, f"a second {kind}(…) is called '{name}'"))
        seen.add((kind, name))
    return said


def reading_list(notebook: NotebookNode, path: Path) -> list[str]:
    """A lesson ends at its last plot, and whoever wants the paper has to search for it."""
    last = [(index, title) for index, _, title in headings(notebook)][-1:]
    if not last or last[0][1].lower() != "what to read next":
        return [f"{path.name}: the last heading is 'What to read next'"]
    texts = [notebook.cells[index].source for index in under(notebook, "What to read next")]
    if not re.search(r"\]\(https?://", "\n".join(texts)):
        return [problem(path, last[0][0], "'What to read next' links to no paper")]
    return []

"""What stands in markdown cells: links, images, and numbers that no cell computes."""

import re
from pathlib import Path

from nbformat import NotebookNode

from .cells import code, exercises, markdown, problem, tags, unfenced

TARGET = re.compile(r"\]\(<?([^)>\s]+)|(?:href|src)=[\"']([^\"']+)")
BADGE = re.compile(r"colab\.research\.google\.com/github/([\w.-]+/[\w.-]+)/blob/")
NAMED = re.compile(
    r"(?:github\.com|githubusercontent\.com)[/:]([\w.-]+/[\w.-]+?)(?=\.git\b|[^\w.-]|$)"
)
OUR_NAMES = ("qlora-kit", "qlora_kit", "repo")

# What is not prose: code, formulas, addresses, comments, and the numbers of papers and exercises.
NOT_PROSE = re.compile(
    r"``.+?``|`[^`\n]+`|\$\$.+?\$\$|(?<!\\)\$[^$\n]+\$|\]\([^)]*\)|<!--.*?-->|<[^>\n]+>"
    r"|https?://\S+|arXiv[: ]*\d{4}\.\d{4,5}|Exercise \d\d\.\d"
    r"|\d+ ?%[ -](?:confidence )?interval",
    re.S | re.I,
)
UNITS = (
    r"%|percent\b|times\b|(?:x\b|\xd7)(?!\s*\d)|[KMGT]i?B\b|(?:tok|tokens|examples|steps)/s\b"
    r"|tokens (?:a|per) second\b|minutes?\b|min\b|hours?\b|seconds?\b|ms\b|nats?\b"
    r"|percentage points?\b|FLOPS?\b"
)
COMPARED = (
    r"as|more|less|fewer|smaller|larger|bigger|faster|slower|better|worse|lower|higher|cheaper"
)
MEASURED = re.compile(
    rf"\b\d[\d,]*\.\d+|\b\d[\d,.]*[\s-]?(?:{UNITS})"
    rf"|\b(?:two|three|four|five|six|seven|eight|nine|ten|twenty|a hundred) times (?:{COMPARED})\b",
    re.I,
)


def links(notebook: NotebookNode, path: Path) -> list[str]:
    """A lesson is renamed, and the one before it sends its readers to a page not found."""
    said = []
    root = path.resolve().parent.parent
    for index, cell in markdown(notebook):
        for found in TARGET.finditer(unfenced(cell)):
            target = re.split(r"[#?]", found[1] or found[2])[0]
            if not target or re.match(r"[a-z]+:", target):
                continue
            there = (path.resolve().parent / target).resolve()
            if not there.is_relative_to(root) or not there.exists():
                said.append(problem(path, index, f"the link {target} leads to no file"))
    return said


def repository(notebook: NotebookNode, path: Path) -> list[str]:
    """A fork's notebooks open the original: its name stands in ten places, not in one.

    Our repository is named in the Colab badge, and in the set-up cell if that installs from it.
    Other projects may be linked freely.
    """
    badges = {name for _, cell in markdown(notebook) for name in BADGE.findall(cell.source)}
    others = {
        name
        for file in sorted(path.parent.glob("[0-9][0-9]_*.ipynb"))
        for name in BADGE.findall(file.read_text(encoding="utf-8"))
    }
    said = []
    if len(badges | others) > 1:
        said.append(f"{path.name}: badges name {', '.join(sorted(badges | others))}")
    setup = code(notebook)[0][0] if code(notebook) else None
    for index, cell in enumerate(notebook.cells):
        for name in NAMED.findall(cell.source):
            ours = name in badges or name.split("/")[1].lower() in OUR_NAMES
            if ours and not (index == setup and name in badges):
                said.append(problem(path, index, f"names {name}; link to the file itself"))
    return said


def numbers_in_prose(notebook: NotebookNode, path: Path) -> list[str]:
    """The text goes on saying what an older run had measured, below a cell that prints otherwise.

    A heuristic: decimals, percentages, multiples and numbers with a unit, in markdown after the
    card. Not looked at: code in backticks or fences (inputs and settings), formulas, prompts
    of exercises, and cells tagged `paper`, which quote a source and must link to it.
    """
    prompts = {index for index, _ in exercises(notebook)}
    said = []
    for index, cell in markdown(notebook):
        if "paper" in tags(cell):
            if not re.search(r"\]\(https?://", cell.source):
                said.append(problem(path, index, "is tagged 'paper' and links to none"))
        elif index and index not in prompts:
            text = NOT_PROSE.sub(" ", unfenced(cell))
            said += [
                problem(path, index, f"'{found[0].strip()}' must come from a cell or a paper")
                for found in MEASURED.finditer(text)
            ]
    return said


def alt_text(notebook: NotebookNode, path: Path) -> list[str]:
    """A figure without words is nothing to a screen reader, and to everyone whose link broke."""
    said = []
    for index, cell in markdown(notebook):
        text = unfenced(cell)
        pictures = re.findall(r"<img\b[^>]*>", text, re.I)
        mute = [tag for tag in pictures if not re.search(r"alt=[\"']\s*[^\s\"']", tag, re.I)]
        if mute or re.search(r"!\[\s*\]", text):
            said.append(problem(path, index, "an image has no alternative text"))
    return said

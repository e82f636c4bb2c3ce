"""From a folder of Markdown or text to conversations, split so that no page is in both halves."""

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import yaml
from markdown_it import MarkdownIt

from .rows import DataError
from .text import spaced_words

_ENDINGS = (".md", ".markdown", ".txt")
_FRONT_MATTER = re.compile(r"---[ \t]*\n(.*?)^(?:---|\.\.\.)[ \t]*$", re.DOTALL | re.MULTILINE)
MAX_WORDS = 180  # longer sections are cut between paragraphs
# Python ends a line at these and Markdown does not: form feeds of a PDF, separators of the web.
_SEPARATORS = re.compile("[\v\f\x1c-\x1e\x85\u2028\u2029]")


@dataclass(frozen=True)
class Section:
    """A part of a document under one heading.

    document: its file, relative to the folder.   heading: the path of headings to it, from the
    file's name where there is no first heading, or another file has the same ones.
    text: what stands below, Markdown as it was written.
    """

    document: str
    heading: tuple[str, ...]
    text: str

    @property
    def title(self) -> str:
        """The headings in one line."""
        return ", ".join(self.heading)


def read_documents(folder: str | Path, max_words: int = MAX_WORDS) -> list[Section]:
    """The sections of all Markdown and text files in a folder and below it.

    Args:
        folder: of .md, .markdown and .txt files; a text file's heading is its name.
        max_words: longer sections are cut between paragraphs; one paragraph, or a fenced block
            of code, stays whole. A Chinese character or a kana counts as a word.

    Returns:
        The sections in the order of file names; empty ones are left out.

    Raises:
        DataError: no such folder, no such files, or one that cannot be read.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder of documents.")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _ENDINGS and p.is_file())
    if not files:
        raise DataError(f"{folder} holds no {', '.join(_ENDINGS)} files.")
    sections = []
    for file in files:
        name = file.relative_to(folder).as_posix()
        try:
            text = file.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as problem:
            raise DataError(f"{file} cannot be read as UTF-8 text: {problem}") from problem
        sections += [
            Section(name, heading, piece)
            for heading, body in _parts(_SEPARATORS.sub(" ", text), file)
            for piece in _pieces(body, max_words)
        ]
    if not sections:
        raise DataError(f"The documents in {folder} hold no text below their headings.")
    return _told_apart(sections)


def _told_apart(sections: Sequence[Section]) -> list[Section]:
    """Headings that two files share get the file's name before them, or they ask the same."""
    homes: dict[str, set[str]] = {}
    for one in sections:
        homes.setdefault(one.title, set()).add(one.document)
    return [
        replace(one, heading=(_readable(Path(one.document)), *one.heading))
        if len(homes[one.title]) > 1
        else one
        for one in sections
    ]


def _readable(document: Path) -> str:
    return document.with_suffix("").as_posix().replace("_", " ")


def _without_front_matter(text: str) -> str:
    """What tools write above a page, between lines of ---; a rule above plain words is no such."""
    header = _FRONT_MATTER.match(text)
    try:
        if header and isinstance(yaml.safe_load(header[1]), dict | None):
            return text[header.end() :]
    except yaml.YAMLError:
        pass
    return text


def _parts(text: str, file: Path) -> Iterator[tuple[tuple[str, ...], str]]:
    """Each heading's path and the text up to the next heading; code blocks are not headings."""
    if file.suffix.lower() == ".txt":
        yield (file.stem.replace("_", " ").replace("-", " "),), text.strip()
        return
    text = _without_front_matter(text)
    lines = text.split("\n")
    tokens = MarkdownIt().parse(text)
    path = {0: _readable(Path(file.name))}  # the heading of each depth
    titled = any(token.tag == "h1" and not token.level for token in tokens)
    begin = 0
    for index, token in enumerate(tokens):
        if token.type != "heading_open" or token.level or not token.map:
            continue
        yield tuple(path.values()), "\n".join(lines[begin : token.map[0]]).strip()
        depth = int(token.tag[1])
        path = {level: name for level, name in path.items() if titled <= level < depth}
        path[depth] = tokens[index + 1].content
        begin = token.map[1]
    yield tuple(path.values()), "\n".join(lines[begin:]).strip()


def _pieces(text: str, max_words: int) -> Iterator[str]:
    piece: list[str] = []
    for paragraph in _paragraphs(text):
        words = sum(len(spaced_words(one)) for one in [*piece, paragraph])
        if piece and words > max_words:
            yield "\n\n".join(piece)
            piece = []
        piece.append(paragraph)
    if piece:
        yield "\n\n".join(piece)


def _paragraphs(text: str) -> Iterator[str]:
    """What stands between blank lines; those inside a fenced block of code part nothing."""
    fences = [token.map or (0, 0) for token in MarkdownIt().parse(text) if token.type == "fence"]
    code = {line for first, last in fences for line in range(first, last)}
    for filled, lines in groupby(
        enumerate(text.split("\n")), lambda line: bool(line[1].strip()) or line[0] in code
    ):
        if filled:
            yield "\n".join(line for _, line in lines)


def to_conversations(
    sections: Sequence[Section],
    question: str = "What does the manual say about {title}?",
    system: str | None = None,
) -> list[dict[str, object]]:
    """One conversation a section: its headings asked for, its text as the answer.

    A start, not an end: questions as customers ask them teach more than headings do.

    Args:
        sections: from `read_documents`.
        question: with {title} where the headings go.
        system: a system prompt, or None.

    Returns:
        Rows with "document" and "messages", as `data.read` takes them.

    Raises:
        DataError: a question without {title}, which would be the same for every answer.
    """
    if "{title}" not in question:
        raise DataError("The question must hold {title}, or every section would answer the same.")
    first = [{"role": "system", "content": system}] if system else []
    parts: Counter[tuple[str, str]] = Counter()
    rows: list[dict[str, object]] = []
    for section in sections:
        key = (section.document, section.title)
        parts[key] += 1
        asked = question.replace("{title}", section.title)
        if parts[key] > 1:
            asked += f" (part {parts[key]})"
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": section.text}]
        rows.append({"document": section.document, "messages": [*first, *turns]})
    return rows


def split_by_document(
    rows: Sequence[dict[str, object]], share: float = 0.1, seed: int = 0, field: str = "document"
) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """Split rows so that all of a document are on one side.

    Two sections of one page repeat each other; split apart, the test would know the training.

    Args:
        rows: with the field that names their document.
        share: of the rows to hold out, met as nearly as whole documents allow.
        seed: of the draw.
        field: what must stay together.

    Returns:
        (training rows, held-out rows), each in the order given, neither empty.

    Raises:
        DataError: a row without the field, fewer than two documents, or a share outside 0 to 1.
    """
    if not 0 < share < 1:
        raise DataError(f"The share to hold out must lie between 0 and 1, not {share}.")
    missing = [number for number, row in enumerate(rows, 1) if field not in row]
    if missing:
        raise DataError(f"Row {missing[0]} has no field {field!r} to split by.")
    sizes = Counter(row[field] for row in rows)
    if len(sizes) < 2:
        raise DataError(f"A split needs at least two values of {field!r}; there is {len(sizes)}.")
    names = sorted(sizes, key=str)
    random.Random(seed).shuffle(names)
    test: set[object] = set()
    taken, due = 0, share * len(rows)
    for name in names[:-1]:
        if not test or abs(taken + sizes[name] - due) < abs(taken - due):
            test.add(name)
            taken += sizes[name]
    return (
        [row for row in rows if row[field] not in test],
        [row for row in rows if row[field] in test],
    )

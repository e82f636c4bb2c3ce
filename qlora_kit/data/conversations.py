"""Conversations from files: JSONL, JSON, CSV and Parquet, in the forms that people have.

Every bad row is reported, with file, row and reason, before anything is trained.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .. import KitError
from ..models import Tokenizer
from .chat import Example, encode
from .rows import HALF_EMOJI, BadRowError, DataError, Problem, require_usable, rows_of
from .stop_tokens import turn_marks

Converter = Callable[[dict[str, Any]], list[dict[str, Any]]]
ROLES = ("system", "user", "assistant")
_SHAREGPT_ROLES = {"human": "user", "gpt": "assistant"}


@dataclass(frozen=True)
class Conversation:
    """One training or test conversation; row counts from 1 (in JSONL, the line)."""

    messages: tuple[dict[str, str], ...]
    row: int

    @property
    def question(self) -> str:
        """What the last user turn asks."""
        return next(m["content"] for m in reversed(self.messages) if m["role"] == "user")

    @property
    def answer(self) -> str:
        """The last assistant turn."""
        return self.messages[-1]["content"]


def bundled_data(name: str) -> Path:
    """The path of a data set that comes with the kit.

    Args:
        name: inside data/, for example "support/train.jsonl".

    Raises:
        KitError: no such data.
    """
    here = Path(__file__).parents[1]
    for home in (here / "bundled", here.parent / "data"):  # installed, or a working copy
        if (home / name).exists():
            return home / name
    raise KitError(f"No bundled data {name!r}; see data/README.md for what there is.")


def read(
    path: str | Path, prompt_field: str | None = None, completion_field: str | None = None
) -> list[Conversation]:
    """Read a file of conversations, whatever common form its rows have.

    Rows may be chats ("messages"), ShareGPT ("conversations"), prompt and completion, or
    Alpaca (instruction, input, output); with the two field names, any two columns.

    Args:
        path: a .jsonl, .json, .csv, .tsv or .parquet file.
        prompt_field, completion_field: the columns of question and answer.

    Returns:
        The conversations, in file order.

    Raises:
        DataError: unreadable, empty, or with bad rows; it names every one of them.
    """
    rows = read_messages(path, prompt_field, completion_field)
    return [Conversation(tuple(messages), number) for number, messages, _ in rows]


def read_messages(
    path: str | Path,
    prompt_field: str | None = None,
    completion_field: str | None = None,
    blank: str = "",
) -> list[tuple[int, list[dict[str, str]], dict[str, Any]]]:
    """Read a file of conversations with the rows as they stand there; every bad one is named.

    Args:
        path, prompt_field, completion_field: see `read`.
        blank: stands in for a last answer that is empty or absent; "" refuses such rows.

    Returns:
        (row number from 1, messages, raw row) each, in file order.

    Raises:
        DataError: see `read`.
    """
    path = Path(path).expanduser()
    if bool(prompt_field) != bool(completion_field):
        raise DataError("Give both --prompt-field and --completion-field, or neither.")
    problems: list[Problem] = []
    rows = list(rows_of(path, problems))
    convert = _converter(path, rows, prompt_field, completion_field)
    conversations = []
    for number, row in rows:
        try:
            messages = _messages(row, convert, completion_field, blank)
            conversations.append((number, messages, row))
        except BadRowError as bad:
            problems.append(Problem(path.name, number, str(bad)))
    require_usable(path, len(conversations), problems)
    return conversations


def _messages(
    row: dict[str, Any], convert: Converter, column: str | None, blank: str
) -> list[dict[str, str]]:
    try:
        return checked(convert(row))
    except BadRowError:
        column = column or ("completion" if "prompt" in row else "output")
        filled = _filled(row, column, blank) if blank else None
        if filled is None:
            raise
        return checked(convert(filled))


def _filled(row: dict[str, Any], column: str, blank: str) -> dict[str, Any] | None:
    """The row with a stand-in for its absent answer; None when an answer is there."""
    for field in ("messages", "conversations", "completion"):
        turns = row.get(field)
        if isinstance(turns, list) and turns and isinstance(turns[-1], dict):
            last = turns[-1]
            role, text = ("from", "value") if "from" in last else ("role", "content")
            if last.get(role) in ("user", "human"):
                name = "gpt" if role == "from" else "assistant"
                return {**row, field: [*turns, {role: name, text: blank}]}
            if _is_blank(last.get(text)):
                return {**row, field: [*turns[:-1], {**last, text: blank}]}
    return {**row, column: blank} if _is_blank(row.get(column)) else None


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _converter(
    path: Path, rows: list[tuple[int, dict[str, Any]]], prompt: str | None, completion: str | None
) -> Converter:
    """How rows become messages, by the fields that the file has."""
    fields = list(dict.fromkeys(field for _, row in rows for field in row))
    if prompt and completion:
        absent = [field for field in (prompt, completion) if field not in fields]
        if absent and rows:
            raise DataError(
                f"{path} has no field {' or '.join(absent)}; it has {', '.join(fields)}."
            )
        return partial(_pair, prompt=prompt, completion=completion)
    for needed, convert in _FORMS.items():
        if set(needed) <= set(fields):
            return convert
    if not rows:
        return _chatml
    example = fields if len(fields) == 2 else ["QUESTION", "ANSWER"]
    raise DataError(
        f"{path}: cannot tell which fields hold question and answer. "
        f"Found: {', '.join(fields) or 'none'}. Name them, for example: "
        f"--prompt-field {example[0]} --completion-field {example[1]}"
    )


def _chatml(row: dict[str, Any]) -> list[dict[str, Any]]:
    return _with_system(row, _chat(row, "messages"))


def _chat(row: dict[str, Any], field: str) -> list[dict[str, Any]]:
    messages = row.get(field)
    if isinstance(messages, str):  # a JSON list inside a CSV cell
        try:
            messages = json.loads(messages)
        except ValueError:
            raise BadRowError(f"{field!r} is neither a list nor JSON") from None
    if not isinstance(messages, list) or not messages:
        raise BadRowError(f"{field!r} is not a list of turns" if messages else f"no {field!r}")
    if not all(isinstance(message, dict) for message in messages):
        raise BadRowError(f"{field!r} holds a turn that is not an object")
    return messages


def _sharegpt(row: dict[str, Any]) -> list[dict[str, Any]]:
    turns = []
    for turn in _chat(row, "conversations"):
        role = turn.get("from", turn.get("role"))
        content = turn.get("value", turn.get("content"))
        role = _SHAREGPT_ROLES.get(str(role), role)
        turns.append({"role": role, "content": content, "weight": turn.get("weight")})
    return _with_system(row, turns)


def _with_system(row: dict[str, Any], turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The turns after the system prompt that stands beside them, as LLaMA-Factory writes it."""
    system = row.get("system")
    if system is not None and not isinstance(system, str):
        raise BadRowError("'system' is not text")
    return [{"role": "system", "content": system}, *turns] if system else turns


def _pair(
    row: dict[str, Any], prompt: str = "prompt", completion: str = "completion"
) -> list[dict[str, Any]]:
    if isinstance(row.get(prompt), list) and isinstance(row.get(completion), list):
        return [*_chat(row, prompt), *_chat(row, completion)]
    for field in (prompt, completion):
        if row.get(field) is None or row[field] == "":
            raise BadRowError(f"{field!r} is missing or empty")
        if not isinstance(row[field], str):
            raise BadRowError(f"{field!r} is not text")
    question = {"role": "user", "content": row[prompt]}
    return [question, {"role": "assistant", "content": row[completion]}]


def _alpaca(row: dict[str, Any]) -> list[dict[str, Any]]:
    instruction, extra = row.get("instruction"), row.get("input")
    if not isinstance(instruction, str) or not instruction.strip():
        raise BadRowError("'instruction' is missing or empty")
    if row.get("history"):
        raise BadRowError("'history' holds earlier turns; write them all as 'messages' instead")
    if isinstance(extra, int | float) and not isinstance(extra, bool) and math.isfinite(extra):
        extra = str(extra)
    if extra is not None and not isinstance(extra, str):
        raise BadRowError("'input' is neither text nor a number")
    question = f"{instruction}\n\n{extra}" if extra and extra.strip() else instruction
    pair = {"instruction": question, "output": row.get("output")}
    return _with_system(row, _pair(pair, "instruction", "output"))


# What a file's rows hold decides, in this order.
_FORMS: dict[tuple[str, ...], Converter] = {
    ("messages",): _chatml,
    ("conversations",): _sharegpt,
    ("prompt", "completion"): _pair,
    ("instruction", "output"): _alpaca,
}


def checked(messages: list[dict[str, Any]]) -> list[dict[str, str]]:
    """The messages, with roles known and in turn, nobody silent, the assistant last.

    Args:
        messages: as they stand in a file.

    Raises:
        BadRowError: the first thing that is wrong.
    """
    previous = None
    for number, message in enumerate(messages, 1):
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise BadRowError(f"turn {number}: role {role!r} is not one of {', '.join(ROLES)}")
        if not isinstance(content, str):
            raise BadRowError(f"turn {number} ({role}): content is not text")
        if HALF_EMOJI.search(content):
            raise BadRowError(f"turn {number} ({role}): half an emoji (a lone surrogate)")
        if role == "system" and number > 1:
            raise BadRowError(f"turn {number}: a system turn may only come first")
        if role == "assistant" and message.get("weight") not in (None, 1):
            raise BadRowError(
                f"turn {number} (assistant): weight {message['weight']!r}, but every answer is "
                "learned alike; end the conversation before it, or remove the weight"
            )
        if role != "system" and not content.strip():
            raise BadRowError(f"turn {number} ({role}): empty")
        if role == previous:
            raise BadRowError(f"turn {number}: two {role} turns in a row")
        if role == "assistant" and previous != "user":
            raise BadRowError(f"turn {number}: the assistant answers before a user has spoken")
        previous = role
    if previous != "assistant":
        raise BadRowError("no assistant turn at the end, so there is nothing to learn")
    return [{"role": m["role"], "content": m["content"]} for m in messages]


def encode_all(
    tokenizer: Tokenizer,
    conversations: Sequence[Conversation],
    max_length: int,
    file: str,
    stops: set[int] | None = None,
) -> tuple[list[Example], str]:
    """Tokenize conversations for training, refusing what could teach nothing.

    Args:
        tokenizer: with a chat template.
        conversations: from `read`.
        max_length: tokens to keep of each.
        file: named in the errors.
        stops: see `chat.encode`.

    Returns:
        (examples, a warning about cut rows or "").

    Raises:
        DataError: no rows, rows that the chat template refuses or that hold its tokens, or rows
            of whose answers nothing is left to learn.
    """
    if not conversations:
        raise DataError(f"{file} has no conversations to train on.")
    _require_plain(tokenizer, conversations, file)
    examples = []
    for row in conversations:
        try:
            examples.append(encode(tokenizer, row.messages, max_length, stops))
        except KitError as problem:
            raise DataError(f"{file}, row {row.row}: {problem}") from problem
    masked = [
        Problem(file, row.row, f"{example.length} tokens, and the answer begins after {max_length}")
        for row, example in zip(conversations, examples, strict=True)
        if not example.learned
    ]
    longest = max(example.length for example in examples)
    if masked:
        raise DataError(
            f"{len(masked)} of {len(examples)} rows have nothing left for the loss to see at "
            f"--max-length {max_length}. Shorten or remove them, or raise it (the longest row has "
            f"{longest} tokens).",
            masked,
        )
    cut = sum(example.length > max_length for example in examples)
    warning = (
        f"{cut} of {len(examples)} rows are longer than --max-length {max_length} and lose their "
        f"end, with the stop token; the longest has {longest} tokens."
        if cut
        else ""
    )
    return examples, warning


def _require_plain(tokenizer: Tokenizer, conversations: Sequence[Conversation], file: str) -> None:
    marks = turn_marks(tokenizer)
    forged = []
    for row in conversations:
        inside = [mark for mark in marks if any(mark in m["content"] for m in row.messages)]
        if inside:
            forged.append(Problem(file, row.row, f"holds {' and '.join(inside)}"))
    if forged:
        raise DataError(
            f"{len(forged)} of {len(conversations)} rows hold special tokens of this model as "
            "text: it would read them as the real begin or end of a turn. Remove them, or write "
            "them otherwise.",
            forged,
        )

"""From a conversation to tokens: the chat template and the loss mask."""

import html
from collections.abc import Sequence
from dataclasses import dataclass

from .. import KitError
from ..models import Tokenizer
from .stop_tokens import require_stop, stop_ids

IGNORED = -100  # the label of a token that has no part in the loss
_CHARACTER = 8  # tokens without a whole character after which its bytes are shown as they are
Messages = Sequence[dict[str, str]]


@dataclass(frozen=True)
class Example:
    """One conversation as the model sees it.

    input_ids: all tokens. labels: the same where the loss looks (the assistant's words and
    the stop token after them), IGNORED elsewhere. length: tokens before truncation.
    """

    input_ids: list[int]
    labels: list[int]
    length: int

    @property
    def learned(self) -> int:
        """How many tokens the loss sees; the first token of all has nothing to predict it."""
        return sum(label != IGNORED for label in self.labels[1:])


@dataclass(frozen=True)
class ColoredTokens:
    """An example's pieces of text, each with whether the loss sees it; a notebook colors them."""

    pieces: tuple[tuple[str, bool], ...]

    def _repr_html_(self) -> str:
        styles = {
            True: "background:#1f4e79;color:#fff;text-decoration:underline",
            False: "background:#eee;color:#555",
        }
        spans = []
        for text, learned in self.pieces:
            shown = html.escape(text).replace("\n", "\u21b5<br>").replace(" ", "\u00b7")
            title = "in the loss" if learned else "not in the loss"
            spans.append(
                f'<span title="{title}" style="{styles[learned]};border-right:1px solid #fff">'
                f"{shown}</span>"
            )
        return f'<div style="font-family:monospace;line-height:1.7">{"".join(spans)}</div>'

    def __repr__(self) -> str:
        """The text, with what the loss sees between guillemets."""
        text, inside = "", False
        for piece, learned in self.pieces:
            text += ("\u00ab" if learned else "\u00bb") * (learned != inside) + piece
            inside = learned
        return text + "\u00bb" * inside


def show(tokenizer: Tokenizer, example: Example) -> ColoredTokens:
    """Color an example token by token: dark is what the loss sees, light is only read.

    Args:
        tokenizer: the one that made the example.
        example: from `encode`.

    Returns:
        Something that a notebook shows in color, and a terminal between guillemets.
    """
    pieces: list[tuple[str, bool]] = []
    tokens: list[int] = []  # bytes of one character may be spread over several
    last = len(example.labels) - 1
    for place, label in enumerate(example.labels):
        tokens.append(example.input_ids[place])
        text = str(tokenizer.decode(tokens))
        if "\ufffd" not in text or len(tokens) > _CHARACTER or place == last:
            pieces.append((text, label != IGNORED))
            tokens = []
    return ColoredTokens(tuple(pieces))


def render(tokenizer: Tokenizer, messages: Messages, answer_next: bool = False) -> str:
    """The text that the tokenizer's chat template makes of a conversation.

    Args:
        tokenizer: any tokenizer with a chat template.
        messages: {"role", "content"} each.
        answer_next: end with what opens the assistant's turn.

    Raises:
        KitError: no template, or one that refuses these messages.
    """
    if not tokenizer.chat_template:
        raise KitError(
            "This tokenizer has no chat template, so nobody can say where a turn ends. "
            "Use an instruct or chat version of the model."
        )
    try:
        text = tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=answer_next
        )
    except Exception as problem:  # a template may raise anything
        raise KitError(f"The chat template refuses this conversation: {problem}") from problem
    return str(text)


def encode(
    tokenizer: Tokenizer,
    messages: Messages,
    max_length: int | None = None,
    stops: set[int] | None = None,
) -> Example:
    """Tokenize a conversation and mark what the loss sees.

    Each assistant turn is found by rendering the conversation up to it, with and without the
    turn, so it works for any template, also without {% generation %} markers. The stop token
    that closes a turn is part of it: a model that never sees it never learns to stop.

    Args:
        tokenizer: a fast tokenizer with a chat template.
        messages: the last one is the assistant's.
        max_length: tokens to keep, from the start.
        stops: the ids that end a turn, from `stop_ids`; None takes the tokenizer's own.

    Returns:
        The example, cut to max_length.

    Raises:
        KitError: a template that rewrites earlier turns, or closes a turn without a stop token.
    """
    text = render(tokenizer, messages)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    labels = [IGNORED] * len(ids)
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        start, end = _turn_span(tokenizer, messages, index, text)
        inside = [i for i, (first, last) in enumerate(offsets) if first >= start and last <= end]
        require_stop(tokenizer, [ids[i] for i in inside], stops or stop_ids(tokenizer))
        for i in inside:
            labels[i] = ids[i]
    if IGNORED not in labels:
        raise KitError(
            "The loss would see every token, the question too: the chat template puts nothing "
            "before the assistant's words. Begin the conversation with a user's turn."
        )
    bos = tokenizer.bos_token_id
    if bos is not None and ids[:2] == [bos, bos]:
        raise KitError("The chat template begins with two BOS tokens; remove one of them.")
    return Example(ids[:max_length], labels[:max_length], len(ids))


def _turn_span(tokenizer: Tokenizer, messages: Messages, index: int, text: str) -> tuple[int, int]:
    """Where an assistant turn stands in the rendered text: [start, end) in characters."""
    before = render(tokenizer, messages[:index], answer_next=True)
    through = render(tokenizer, messages[: index + 1])
    if not text.startswith(before) or not text.startswith(through.rstrip()):
        if index + 1 == len(messages):
            raise KitError(
                f"The chat template renders what stands before turn {index + 1} differently when "
                "it asks for that answer than when it shows it, so it cannot be masked exactly. "
                "Mend the template, or use another model's."
            )
        raise KitError(
            f"The chat template renders turn {index + 1} differently once others follow it, so its "
            "answer cannot be masked exactly. Split the conversation so that it ends there."
        )
    return len(before), len(through.rstrip())


def encode_prompt(tokenizer: Tokenizer, messages: Messages) -> list[int]:
    """The tokens that the model gets before it answers.

    Args:
        tokenizer: with a chat template.
        messages: ends with the user's turn.
    """
    text = render(tokenizer, messages, answer_next=True)
    return tokenizer(text, add_special_tokens=False)["input_ids"]

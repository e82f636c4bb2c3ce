"""Less to compute: several examples in one row that never meet, and beginnings read once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .. import KitError
from ..models import Model
from .chat import IGNORED, Example

if TYPE_CHECKING:
    import torch

# Share of the tokens below which more attention costs less than it saves. Chosen by hand.
SHARING_PAYS = 0.9


@dataclass(frozen=True)
class Pack:
    """Several examples in one row.

    input_ids, labels: as in `chat.Example`; the first label of each example is ignored, since
    what comes before it belongs to another. position_ids: from 0 in each example. segments:
    each token's example, counted from 0.
    """

    input_ids: list[int]
    labels: list[int]
    position_ids: list[int]
    segments: list[int]


def pack(examples: Sequence[Example], max_tokens: int) -> list[Pack]:
    """Fill rows with whole examples, the longest first, each where it fits best.

    Args:
        examples: from `chat.encode`.
        max_tokens: tokens a row may hold; a longer example gets a row to itself.

    Returns:
        The rows; every example is in exactly one of them.

    Source: best-fit decreasing bin packing (Johnson 1973).
    """
    rows: list[list[Example]] = []
    room: list[int] = []
    for example in sorted(examples, key=lambda one: len(one.input_ids), reverse=True):
        size = len(example.input_ids)
        fitting = [index for index, free in enumerate(room) if free >= size]
        if fitting:
            best = min(fitting, key=room.__getitem__)
            rows[best].append(example)
            room[best] -= size
        else:
            rows.append([example])
            room.append(max_tokens - size)
    return [_joined(row) for row in rows]


def _joined(row: Sequence[Example]) -> Pack:
    return Pack(
        [token for example in row for token in example.input_ids],
        [label for example in row for label in (IGNORED, *example.labels[1:])],
        [position for example in row for position in range(len(example.input_ids))],
        [number for number, example in enumerate(row) for _ in example.input_ids],
    )


def share_prompts(examples: Sequence[Example], max_tokens: int) -> list[Pack]:
    """Rows in which examples with the same prompt share it: it stands once, then each answer.

    Args:
        examples: from `chat.encode`.
        max_tokens: tokens a row may hold; a longer example gets a row to itself.

    Returns:
        The rows. Segment 0 is the prompt, less its last token; segment i + 1 is that token and
        the answer of examples[i], whose positions go on where the prompt's end.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, example in enumerate(examples):
        groups.setdefault(tuple(example.input_ids[: _start(example)]), []).append(index)
    return [
        row
        for prompt, members in groups.items()
        for row in _share(prompt, members, examples, max_tokens)
    ]


def share_beginning(examples: Sequence[Example], max_tokens: int) -> list[Pack]:
    """Rows in which examples share what all their prompts begin with, as a system prompt.

    Args:
        examples: from `chat.encode`.
        max_tokens: tokens a row may hold; a longer example gets a row to itself.

    Returns:
        The rows; segment 0 is the beginning, segment i + 1 all the rest of examples[i].
    """
    prompts = [example.input_ids[: _start(example)] for example in examples]
    columns = enumerate(zip(*prompts, strict=False))
    shortest = min(map(len, prompts), default=0)
    size = next((at for at, tokens in columns if len(set(tokens)) > 1), shortest)
    return _share(prompts[0][:size] if prompts else [], range(len(examples)), examples, max_tokens)


def _start(example: Example) -> int:
    """Where the last token stands that only asks: what it predicts is learned."""
    learned = (at for at, label in enumerate(example.labels) if at and label != IGNORED)
    return next(learned, len(example.labels)) - 1


def _share(
    prompt: Sequence[int], members: Iterable[int], examples: Sequence[Example], max_tokens: int
) -> list[Pack]:
    rows: list[Pack] = []
    for index in members:
        ids, labels = examples[index].input_ids, examples[index].labels
        tail = range(len(prompt), len(ids))
        if not rows or len(rows[-1].input_ids) + len(tail) > max_tokens:
            size = len(prompt)
            rows.append(Pack(list(prompt), [IGNORED] * size, list(range(size)), [0] * size))
        row = rows[-1]
        row.input_ids.extend(ids[len(prompt) :])
        row.labels.extend([IGNORED, *labels[len(prompt) + 1 :]])
        row.position_ids.extend(tail)
        row.segments.extend([index + 1] * len(tail))
    return rows


def block_mask(segments: "torch.Tensor", shared: int | None = None) -> "torch.Tensor":
    """Who may look at whom in packed rows: earlier tokens of the same example, and oneself.

    Args:
        segments: (batch, tokens), each token's example.
        shared: a segment that all later ones may look at, too.

    Returns:
        (batch, 1, tokens, tokens), bool; True where the second may be looked at.
    """
    same = segments[:, :, None] == segments[:, None, :]
    if shared is not None:
        same = same | (segments[:, None, :] == shared)
    return same.tril().unsqueeze(1)


def require_packable(model: Model) -> None:
    """Refuse to pack for a model that would not obey the mask.

    Args:
        model: a causal language model.

    Raises:
        KitError: its attention takes no mask of this form, or it has layers without attention.
    """
    config = model.config.get_text_config()
    # Without a default: a library that names them otherwise is an error, and no refusal in silence.
    attention = model.config._attn_implementation
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    whole = kinds == {"full_attention"} and not getattr(config, "sliding_window", None)
    if attention != "sdpa" or not whole:
        raise KitError(
            "Packing needs full attention in every layer, through torch's "
            f"scaled_dot_product_attention; this model uses {attention!r} in layers of "
            f"{', '.join(sorted(kinds))}. Train it without packing."
        )
    if getattr(config, "alibi", False):
        raise KitError(
            "A model that counts distances (ALiBi) takes no positions; do not pack for it."
        )
    if model._is_stateful:
        raise KitError("A model with a recurrent state sees across examples; do not pack for it.")


def is_packable(model: Model) -> bool:
    """Whether a model obeys the mask, see `require_packable`."""
    try:
        require_packable(model)
    except KitError:
        return False
    return True

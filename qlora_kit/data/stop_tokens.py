"""What ends a turn, and that every turn ends with it."""

from collections.abc import Sequence

from .. import KitError
from ..models import Model, Tokenizer


def stop_ids(tokenizer: Tokenizer, model: "Model | None" = None) -> set[int]:
    """The token ids that end a turn.

    Args:
        tokenizer: its end-of-sequence token counts.
        model: when given, the end tokens of its generation config count too.
    """
    ids = {tokenizer.eos_token_id}
    more = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids.update(more if isinstance(more, list) else [more])
    return {token for token in ids if token is not None}


def turn_marks(tokenizer: Tokenizer) -> tuple[str, ...]:
    """The special tokens that begin and end turns; as text in a message they would do so too.

    Args:
        tokenizer: with a chat template.
    """
    named = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token)
    special = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special]
    return tuple(t for t in special if t in named or t in str(tokenizer.chat_template))


def require_stop(tokenizer: Tokenizer, turn: Sequence[int], stops: set[int]) -> None:
    """Refuse a turn that no stop token closes: whoever learns from it never learns to stop.

    Args:
        tokenizer: that made the tokens.
        turn: the tokens of an assistant's turn.
        stops: from `stop_ids`.

    Raises:
        KitError: the last token is another one, or there is none.
    """
    if turn and turn[-1] in stops:
        return
    closing = tokenizer.decode([turn[-1]]) if turn else ""
    raise KitError(
        f"The chat template closes the assistant's turn with {closing!r}, not with the "
        f"stop token {tokenizer.eos_token!r}; a model trained on it would never stop. "
        "Set the tokenizer's eos_token to the template's end-of-turn token."
    )

"""A Modelfile for Ollama: the chat template said in its language."""

import json

from .. import KitError
from ..data import render, stop_ids
from ..models import Model, Tokenizer

_MARKS = {"system": "<<1>>", "user": "<<2>>", "assistant": "<<3>>"}  # stand for a role's words


def modelfile(
    tokenizer: Tokenizer,
    weights: str,
    adapter: str = "",
    system: str | None = None,
    model: "Model | None" = None,
) -> str:
    """An Ollama Modelfile with the chat template and the stop tokens.

    Ollama writes templates in another language. The one here is made from what the tokenizer's
    own template puts around each role's words; where it does more than that, it is left out with
    a comment, and Ollama falls back on the template inside the GGUF file.

    Args:
        tokenizer: with a chat template.
        weights: the GGUF file's name beside the Modelfile.
        adapter: a GGUF adapter's name beside it.
        system: the system prompt that the model was trained with.
        model: its generation config may know more stop tokens.
    """
    lines = [f"FROM ./{weights}"]
    if adapter:
        lines.append(f"ADAPTER ./{adapter}")
    wrappers = _wrappers(tokenizer)
    if wrappers is None:
        lines.append("# The chat template does more than wrap turns; Ollama takes the GGUF's own.")
    else:
        turns = "{{ else }}".join(
            f'{{{{ if eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{after}'
            for role, (before, after) in wrappers.items()
        )
        ends = "{{ end }}" * len(wrappers)
        opening = wrappers["assistant"][0]
        lines.append(f'TEMPLATE """{{{{ range .Messages }}}}{turns}{ends}{{{{ end }}}}{opening}"""')
        system = _default_system(tokenizer, wrappers) if system is None else system
    if system:
        lines.append(f'SYSTEM """{system}"""')
    stops = sorted(stop_ids(tokenizer, model))
    lines += [f"PARAMETER stop {json.dumps(tokenizer.decode([index]))}" for index in stops]
    return "\n".join(lines) + "\n"


def _wrappers(tokenizer: Tokenizer) -> dict[str, tuple[str, str]] | None:
    """What the template puts before and after each role's words; None where that is not all."""
    turns = [{"role": role, "content": mark} for role, mark in _MARKS.items()]
    longer = [*turns, turns[1]]
    try:
        before_system, rest = _render(tokenizer, turns).split(_MARKS["system"])
        before_user, rest = rest.split(_MARKS["user"])
        before_assistant, close = rest.split(_MARKS["assistant"])
        expected = _render(tokenizer, longer, answer_next=True)
    except (KitError, ValueError):  # a turn is refused, left out or written twice
        return None
    # All turns close alike: what ends the last one also stands before the second and the third.
    wrappers = {
        "system": (before_system, close),
        "user": (before_user.removeprefix(close), close),
        "assistant": (before_assistant.removeprefix(close), close),
    }
    wrapped = "".join(wrappers[turn["role"]][0] + turn["content"] + close for turn in longer)
    if wrapped + wrappers["assistant"][0] != expected or '"""' in wrapped or "{{" in wrapped:
        return None
    return wrappers


def _render(tokenizer: Tokenizer, turns: list[dict[str, str]], answer_next: bool = False) -> str:
    """A conversation without the token that begins all text: Ollama adds that by itself."""
    text = render(tokenizer, turns, answer_next)
    begin = tokenizer.bos_token
    return text.removeprefix(begin) if begin and text.count(begin) == 1 else text


def _default_system(tokenizer: Tokenizer, wrappers: dict[str, tuple[str, str]]) -> str | None:
    """The system prompt that the template puts where there is none."""
    opening, close = wrappers["system"]
    question = _MARKS["user"]
    try:
        text = _render(tokenizer, [{"role": "user", "content": question}])
    except KitError:
        return None
    head = text.split(wrappers["user"][0] + question)[0]
    inside = head.startswith(opening) and head.endswith(close)
    return head[len(opening) : len(head) - len(close)] if inside else None

"""A Modelfile for Ollama: the chat template said in its language."""

import json

from .. import KitError
from ..data import render, stop_ids
from ..models import Model, Tokenizer


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
    pieces = _pieces(tokenizer)
    if pieces is None:
        lines.append("# The chat template does more than wrap turns; Ollama takes the GGUF's own.")
    else:
        turns = "{{ else }}".join(
            f'{{{{ if eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{after}'
            for role, (before, after) in pieces.items()
        )
        ends = "{{ end }}" * len(pieces)
        opening = pieces["assistant"][0]
        lines.append(f'TEMPLATE """{{{{ range .Messages }}}}{turns}{ends}{{{{ end }}}}{opening}"""')
        system = _default_system(tokenizer, pieces) if system is None else system
    if system:
        lines.append(f'SYSTEM """{system}"""')
    stops = sorted(stop_ids(tokenizer, model))
    lines += [f"PARAMETER stop {json.dumps(tokenizer.decode([index]))}" for index in stops]
    return "\n".join(lines) + "\n"


def _pieces(tokenizer: Tokenizer) -> dict[str, tuple[str, str]] | None:
    """What the template puts before and after each role's words; None where that is not all."""
    words = {"system": "<<1>>", "user": "<<2>>", "assistant": "<<3>>"}
    talk = [{"role": role, "content": text} for role, text in words.items()]
    try:
        rest, befores = _render(tokenizer, talk), []
        for text in words.values():
            before, rest = rest.split(text)
            befores.append(before)
        # All turns close alike: what is left at the end also stands before the second and third.
        pieces = {
            role: (before if role == "system" else before.removeprefix(rest), rest)
            for role, before in zip(words, befores, strict=True)
        }
        longer = [*talk, *talk[1:2]]
        made = "".join(pieces[m["role"]][0] + m["content"] + rest for m in longer)
        same = made + pieces["assistant"][0] == _render(tokenizer, longer, answer_next=True)
    except (KitError, ValueError):
        return None
    return pieces if same and '"""' not in made and "{{" not in made else None


def _render(tokenizer: Tokenizer, talk: list[dict[str, str]], answer_next: bool = False) -> str:
    """A conversation without the token that begins all text: Ollama adds that by itself."""
    text, begin = render(tokenizer, talk, answer_next), tokenizer.bos_token
    return text.removeprefix(begin) if begin and text.count(begin) == 1 else text


def _default_system(tokenizer: Tokenizer, pieces: dict[str, tuple[str, str]]) -> str | None:
    """The system prompt that the template puts where there is none."""
    user, (opening, close) = pieces["user"][0] + "<<2>>", pieces["system"]
    try:
        head = _render(tokenizer, [{"role": "user", "content": "<<2>>"}]).split(user)[0]
    except KitError:
        return None
    inside = head.startswith(opening) and head.endswith(close)
    return head[len(opening) : len(head) - len(close)] if inside else None

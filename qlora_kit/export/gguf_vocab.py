"""A tokenizer as a GGUF file holds it: tokens, merges, special ids, and how text is cut first.

llama.cpp has its own code for cutting text into words before the merges apply, chosen by name.
A wrong name gives other tokens without any error, so a name is given only where the tokenizer's
own rule is known to be the same.
"""

import json
from typing import Any

from .. import KitError
from ..models import Tokenizer

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_GPT2_WORDS = ("ByteLevel", True)
_BYTES = ("ByteLevel", False)
# The rule as the tokenizer tells it -> llama.cpp's name for it. Mistral Nemo's (tekken) is left
# out: llama.cpp cuts combining marks of other scripts in another place.
_CUTS = {
    (_GPT2_WORDS,): "gpt-2",
    (("Digits", True), _GPT2_WORDS): "smollm",
    (("Split", _QWEN2), _BYTES): "qwen2",
    (("Split", _LLAMA3), _BYTES): "llama-bpe",
}
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6


def add_tokenizer(writer: Any, tokenizer: Tokenizer, size: int, stops: set[int]) -> None:
    """Write a tokenizer into a GGUF file.

    Args:
        writer: a `gguf.GGUFWriter`.
        tokenizer: a fast tokenizer.
        size: rows of the embedding; ids beyond the tokenizer's own become unused tokens.
        stops: ids that end a turn, from `data.stop_ids`.

    Raises:
        KitError: a kind of tokenizer that is not known to be the same in llama.cpp.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    raw = json.loads(backend.to_str()) if backend is not None else {}
    model = raw.get("model", {})
    if model.get("type") != "BPE":
        raise _unsupported(f"a tokenizer of the kind {model.get('type', type(tokenizer).__name__)}")
    tokens, kinds = _tokens(raw, size)
    if model.get("byte_fallback"):
        _add_sentencepiece(writer, raw, tokens, kinds)
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre_tokenizer(raw))
        merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
        writer.add_token_list(tokens)
        writer.add_token_merges(merges)
        writer.add_add_space_prefix(False)
    writer.add_token_types(kinds)
    _add_special(writer, tokenizer, stops)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def pre_tokenizer(raw: dict[str, Any]) -> str:
    """llama.cpp's name for the rule by which a byte-level tokenizer cuts text into words.

    Args:
        raw: the content of tokenizer.json.

    Raises:
        KitError: a rule that has no known name.

    Source: the names in llama.cpp's src/llama-vocab.cpp. Its converter finds them by hashing
    tokenized text; here the rule itself is compared.
    """
    rule = raw.get("pre_tokenizer") or {}
    parts = rule["pretokenizers"] if rule.get("type") == "Sequence" else [rule]
    cut = tuple(_cut(part) for part in parts)
    if cut not in _CUTS:
        raise _unsupported(f"a tokenizer that cuts text by {json.dumps(rule, ensure_ascii=False)}")
    return _CUTS[cut]


def _cut(part: dict[str, Any]) -> tuple[str, Any]:
    kind = part.get("type", "nothing")
    if kind == "ByteLevel" and not part.get("add_prefix_space"):
        return kind, part.get("use_regex", True)
    if kind == "Digits":
        return kind, part.get("individual_digits")
    if kind == "Split" and part.get("behavior") == "Isolated" and not part.get("invert"):
        return kind, part.get("pattern", {}).get("Regex")
    return kind, json.dumps(part, sort_keys=True)


def _tokens(raw: dict[str, Any], size: int) -> tuple[list[str], list[int]]:
    tokens, kinds = [f"[PAD{i}]" for i in range(size)], [_UNUSED] * size
    vocabulary = raw["model"]["vocab"]
    added = {each["id"]: each for each in raw.get("added_tokens", [])}
    highest = max([*vocabulary.values(), *added])
    if highest >= size:
        raise KitError(
            f"The tokenizer has the token id {highest}, but the model's embedding has only {size} "
            "rows. Take the tokenizer that belongs to the model."
        )
    for token, index in vocabulary.items():
        byte = raw["model"].get("byte_fallback") and len(token) == 6 and token.startswith("<0x")
        tokens[index], kinds[index] = token, _BYTE if byte else _NORMAL
    for index, each in added.items():
        tokens[index] = each["content"]
        kinds[index] = _CONTROL if each["special"] else _USER_DEFINED
    return tokens, kinds


def _add_sentencepiece(
    writer: Any, raw: dict[str, Any], tokens: list[str], kinds: list[int]
) -> None:
    """Llama 2's and Mistral's kind: llama.cpp merges the pair of the best score first.

    The order of the merges is that of the pieces they make, so a piece's id is its score.
    """
    unknown = raw["model"].get("unk_token")
    if unknown in tokens:
        kinds[tokens.index(unknown)] = _UNKNOWN
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([float(-index) for index in range(len(tokens))])
    writer.add_add_space_prefix(_prepends_space(raw))


def _prepends_space(raw: dict[str, Any]) -> bool:
    normalizer = raw.get("normalizer") or {}
    parts = [*normalizer.get("normalizers", [normalizer]), raw.get("pre_tokenizer") or {}]
    return any(
        part.get("type") == "Prepend" or part.get("prepend_scheme") in ("first", "always")
        for part in parts
    )


def _add_special(writer: Any, tokenizer: Tokenizer, stops: set[int]) -> None:
    for name in ("bos", "eos", "unk", "pad"):
        index = getattr(tokenizer, f"{name}_token_id")
        if index is not None:
            getattr(writer, f"add_{name}_token_id")(index)
    others = sorted(stops - {tokenizer.eos_token_id})
    if others:
        writer.add_eot_token_id(others[0])
    ids = tokenizer("a")["input_ids"]
    writer.add_add_bos_token(
        tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id
    )
    writer.add_add_eos_token(False)


def _unsupported(what: str) -> KitError:
    return KitError(
        f"The GGUF writer does not know {what}, and a guess would give other tokens in silence. "
        "Export with --to merged, then use llama.cpp's own convert_hf_to_gguf.py on that folder."
    )

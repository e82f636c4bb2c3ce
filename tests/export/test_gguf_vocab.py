"""Tokenizers of the kinds that Llama, Mistral, Qwen and SmolLM have, tokenized by llama.cpp."""

import json

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from qlora_kit import KitError
from qlora_kit.export import gguf_vocab, write_gguf
from qlora_kit.export.gguf_vocab import pre_tokenizer
from qlora_kit.export.outputs import TOKEN_TEXTS
from qlora_kit.serve import running_llama_cpp
from tests.helpers import CHATML, random_model

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
WORDS = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
SPACED = "100 200 300 2026 3.14 ABC Abc abc don't DON'T if (x) { return; }\n\n  end"
CORPUS = [*TOKEN_TEXTS, SPACED] * 4


def wrapped(raw, **special):
    from transformers import PreTrainedTokenizerFast

    made = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>", **special
    )
    made.chat_template = CHATML
    return made


def byte_level(*parts):
    """A tokenizer whose merges run across whatever its rule does not cut."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(list(parts))
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=800,
            special_tokens=SPECIAL,
            min_frequency=2,
            initial_alphabet=alphabet,
            show_progress=False,
        ),
    )
    return wrapped(raw)


def sentencepiece():
    """Llama 2's and Mistral's kind: spaces as a mark, unknown characters as bytes."""
    raw = Tokenizer(models.BPE())
    raw.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    pieces = ["<unk>", "<s>", "</s>", *SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    raw.train_from_iterator(
        ["what is the color of the light, it is red or green"] * 3,
        trainers.BpeTrainer(vocab_size=360, special_tokens=pieces, show_progress=False),
    )
    told = json.loads(raw.to_str())
    told["model"] |= {"byte_fallback": True, "unk_token": "<unk>", "fuse_unk": True}
    told["added_tokens"] = [t for t in told["added_tokens"] if not t["content"].startswith("<0x")]
    return wrapped(Tokenizer.from_str(json.dumps(told)), bos_token="<s>", unk_token="<unk>")


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), behavior="isolated")


@pytest.mark.equality
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: byte_level(WORDS), "gpt-2"),
        (lambda: byte_level(pre_tokenizers.Digits(individual_digits=True), WORDS), "smollm"),
        (lambda: byte_level(split(gguf_vocab._QWEN2), BYTES), "qwen2"),
        (lambda: byte_level(split(gguf_vocab._LLAMA3), BYTES), "llama-bpe"),
        (sentencepiece, "default"),
    ],
    ids=["gpt-2", "smollm", "qwen2", "llama-bpe", "sentencepiece"],
)
def test_llama_cpp_gives_the_same_tokens(make, name, tmp_path):
    from gguf import GGUFReader

    tokenizer = make()
    path = tmp_path / "model.gguf"
    write_gguf(random_model("llama", tokenizer), tokenizer, path)
    assert GGUFReader(path).fields["tokenizer.ggml.pre"].contents() == name
    texts = [*TOKEN_TEXTS, SPACED, "<|im_start|>user\nIs it red?<|im_end|>\n"]
    with running_llama_cpp(path) as server:
        for text in texts:
            found = server.ask("/tokenize", content=text, parse_special=True)["tokens"]
            assert found == tokenizer(text, add_special_tokens=False)["input_ids"], text


def test_an_unknown_rule_is_refused_with_the_way_out(tmp_path):
    tokenizer = byte_level(split(r"\d+|\D+"), BYTES)
    with pytest.raises(KitError, match=r"cuts text by .*convert_hf_to_gguf"):
        write_gguf(random_model("llama", tokenizer), tokenizer, tmp_path / "x.gguf")
    with pytest.raises(KitError, match="cuts text by"):
        pre_tokenizer({"pre_tokenizer": None})


def test_another_kind_of_tokenizer_is_refused(tmp_path):
    raw = Tokenizer(models.WordPiece({"a": 0, "<|im_end|>": 1, "<|endoftext|>": 2}, unk_token="a"))
    tokenizer = wrapped(raw)
    with pytest.raises(KitError, match="kind WordPiece"):
        write_gguf(random_model("llama", tokenizer), tokenizer, tmp_path / "x.gguf")


def test_padding_rows_of_the_embedding_become_unused_tokens(tokenizer, tmp_path):
    from gguf import GGUFReader

    model = random_model("llama", tokenizer)
    model.resize_token_embeddings(len(tokenizer) + 4, mean_resizing=False)
    write_gguf(model, tokenizer, tmp_path / "model.gguf")
    fields = GGUFReader(tmp_path / "model.gguf").fields
    assert fields["tokenizer.ggml.tokens"].contents()[-1].startswith("[PAD")
    assert fields["tokenizer.ggml.token_type"].contents()[-4:] == [5] * 4
    model.resize_token_embeddings(100)
    with pytest.raises(KitError, match="only 100 rows"):
        write_gguf(model, tokenizer, tmp_path / "short.gguf")

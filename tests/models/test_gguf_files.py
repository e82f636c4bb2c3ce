import gguf
import numpy as np
import pytest

from qlora_kit import KitError
from qlora_kit.models import read_gguf_header


def model(path, heads=4, eps=1e-5, blocks=1, tokens=6, **more):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(blocks)
    writer.add_embedding_length(32)
    writer.add_vocab_size(6)
    if heads is not None:
        writer.add_head_count(heads)
    writer.add_layer_norm_rms_eps(eps)
    writer.add_token_list([b"t%d" % n for n in range(tokens)])
    for key, value in more.items():
        writer.add_uint32(key.replace("_", "."), value)
    writer.add_tensor("token_embd.weight", np.ones((6, 32), np.float32))
    writer.add_tensor("blk.0.attn_q.weight", np.ones((32, 32), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.equality
def test_a_sound_header_is_read_as_the_gguf_library_reads_it(tmp_path):
    path = model(tmp_path / "a.gguf")
    header, known = read_gguf_header(path), gguf.GGUFReader(path)
    assert header.metadata["general.architecture"] == "llama"
    assert header.metadata["tokenizer.ggml.tokens"] == [f"t{n}" for n in range(6)]
    assert [(t.name, t.start) for t in header.tensors] == [
        (t.name, t.data_offset) for t in known.tensors
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"heads": 5}, "5 heads of 6"),
        ({"heads": None}, "head_count or .* is not in it"),
        ({"eps": 3.0}, "layer_norm_rms_epsilon is 3"),
        ({"blocks": 2**31}, "block_count is 2,147,483,648, and its tensors that it is 1"),
        ({"tokens": 7}, "7 tokens and embeddings for 6"),
        ({"general_alignment": 33}, "alignment is 33"),
    ],
)
def test_what_its_tensors_are_not_is_named(tmp_path, change, said):
    with pytest.raises(KitError, match=said):
        read_gguf_header(model(tmp_path / "a.gguf", **change))


@pytest.mark.parametrize(("cut", "said"), [(-40, "ends after"), (100, "cannot hold|ends before")])
def test_a_cut_file_is_named(tmp_path, cut, said):
    path = model(tmp_path / "a.gguf")
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(KitError, match=f"not a sound GGUF file: .*{said}"):
        read_gguf_header(path)


def test_what_is_no_gguf_file_is_said(tmp_path):
    for body in (b"", b"GGU", b"PK\x03\x04"):
        (tmp_path / "a.gguf").write_bytes(body)
        with pytest.raises(KitError, match="not a GGUF file"):
            read_gguf_header(tmp_path / "a.gguf")

import pytest

from qlora_kit import KitError
from qlora_kit.serve.config import _kind, read_gguf_model, require_adapter
from tests.tools.gguf_files import write_adapter, write_model

QUERY = "blk.0.attn_q.weight"


@pytest.fixture
def base(tmp_path):
    shapes = {QUERY: (8, 16), "token_embd.weight": (8, 100)}
    return read_gguf_model(write_model(tmp_path / "base.gguf", shapes=shapes))


def test_a_model_tells_what_it_is(base):
    assert (_kind(base), base.architecture) == ("model", "llama")
    assert base.metadata["llama.context_length"] == 128
    assert "tokenizer.chat_template" in base.metadata
    assert base.shapes[QUERY] == (8, 16)


def test_an_adapter_that_fits_is_taken(base, tmp_path):
    path = write_adapter(tmp_path / "a.gguf", sizes=(8, 16), names=[QUERY])
    require_adapter(path, base)
    table = write_adapter(tmp_path / "t.gguf", sizes=(100, 8), names=["token_embd.weight"])
    with pytest.raises(KitError, match="token_embd"):  # a table's halves lie the other way round
        require_adapter(table, base)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "qwen2"}, "for a 'qwen2' model, this is 'llama'"),
        ({"sizes": (8, 32)}, "is 8 x 16, the adapter's 8 x 32"),
        ({"sizes": (16, 16)}, "is 8 x 16, the adapter's 16 x 16"),
        ({"names": ["blk.7.attn_q.weight"]}, "the model has no blk.7.attn_q.weight"),
        ({"halves": "a"}, "only one of lora_a and lora_b"),
        ({"names": ["x"], "halves": ""}, "no lora_a and lora_b"),
        ({"adapter": "control_vector"}, "not a LoRA adapter but holds a control_vector"),
    ],
)
def test_an_adapter_of_another_model_is_named(base, tmp_path, changes, message):
    settings = {"sizes": (8, 16), "names": [QUERY], **changes}
    with pytest.raises(KitError, match=message):
        require_adapter(write_adapter(tmp_path / "a.gguf", **settings), base)


def test_model_and_adapter_are_not_mixed_up(base, tmp_path):
    adapter = write_adapter(tmp_path / "a.gguf", sizes=(8, 16), names=[QUERY])
    with pytest.raises(KitError, match=r"is a LoRA adapter, not a model.*--lora"):
        read_gguf_model(adapter)
    with pytest.raises(KitError, match="not a LoRA adapter but holds a model"):
        require_adapter(base.path, base)


def test_what_is_no_gguf_file_is_named(base, tmp_path):
    with pytest.raises(KitError, match="is not there"):
        read_gguf_model(tmp_path / "absent.gguf")
    with pytest.raises(KitError, match="is a folder"):
        read_gguf_model(tmp_path)
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(KitError, match="is not a GGUF file"):
        read_gguf_model(tmp_path / "text.gguf")
    whole = base.path.read_bytes()
    for size in (8, 100, len(whole) - 64):
        (tmp_path / "cut.gguf").write_bytes(whole[:size])
        with pytest.raises(KitError, match="cut off"):
            read_gguf_model(tmp_path / "cut.gguf")

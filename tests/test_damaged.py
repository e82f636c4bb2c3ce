"""10,000 damaged inputs: each is one clear error or read rightly; none hangs, crashes or lies."""

import csv
import dataclasses
import io
import json
import math

import gguf
import numpy as np
import pandas
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from qlora_kit import KitError
from qlora_kit.data import DataError, checked, read
from qlora_kit.evaluate import read_probe
from qlora_kit.models import fingerprint, read_gguf_header
from qlora_kit.runs import TrainConfig, checkpoint, load_config, make_config, manifest
from qlora_kit.runs.adapter_safety import require_safe_adapter
from tests.tools.damage import damaged

pytestmark = pytest.mark.timeout(240)
PAIR = [{"role": "user", "content": "Why? 🙂"}, {"role": "assistant", "content": "Because."}]
SHARED = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]
FORMS = ({"messages": PAIR}, {"prompt": "Why?", "completion": "Because, so."},
         {"instruction": "Say", "input": "x", "output": "y"},
         {"conversations": SHARED})  # fmt: skip
quick = settings(max_examples=200, deadline=None, derandomize=True, database=None)


def check_survives(path, bodies, read_one, check):
    """How many inputs were refused and how many read; each error is short and names the file."""
    refused = sound = 0
    for body in bodies:
        path.write_bytes(body)
        problem, found = None, None
        try:
            found = read_one()
        except KitError as error:
            problem = str(error)
        if problem is None:
            check(found)
            sound += 1
        else:
            assert 0 < len(problem) < 100_000
            refused += 1
    assert refused, "nothing was refused: the damage reaches nothing"
    return refused, sound


def check_rows(conversations):
    assert conversations
    for each in conversations:
        assert checked(list(each.messages)) == list(each.messages)


def table():
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerows(
        [["prompt", "completion"], *[[f"Why {n}?", "Because,\nso."] for n in range(6)]]
    )
    return text.getvalue().encode()


@pytest.mark.parametrize("form", range(4))
def test_rows_of_json(tmp_path, form):
    lines = [json.dumps(FORMS[form], ensure_ascii=False)] * 5
    path = tmp_path / "a.jsonl"
    body = "\n".join(lines).encode()
    check_survives(path, damaged(body, 700, form), lambda: read(path), check_rows)
    path = tmp_path / "a.json"
    body = f"[{','.join(lines)}]".encode()
    check_survives(path, damaged(body, 300, form), lambda: read(path), check_rows)


def test_rows_of_tables(tmp_path):
    path = tmp_path / "a.csv"
    check_survives(path, damaged(table(), 1000), lambda: read(path), check_rows)
    path = tmp_path / "a.parquet"
    pandas.DataFrame([FORMS[0], FORMS[0]]).to_parquet(path)
    check_survives(path, damaged(path.read_bytes(), 600), lambda: read(path), check_rows)


def check_probe(items):
    assert items
    for item in items:
        assert len(item.choices) >= 2
        assert all(isinstance(text, str) and text.strip() for text in item.choices)
        assert item.question.strip()
        assert type(item.answer) is int
        assert 0 <= item.answer < len(item.choices)


def test_probes(tmp_path):
    item = {"question": "Why? 🙂", "choices": ["No.", "Because.", "Yes."], "answer": 1}
    body = "\n".join([json.dumps(item, ensure_ascii=False)] * 5).encode()
    path = tmp_path / "probe.jsonl"
    check_survives(path, damaged(body, 700), lambda: read_probe(path), check_probe)


def test_configs(tmp_path):
    path = tmp_path / "config.yaml"
    sound = TrainConfig("a.jsonl", "runs/a", max_steps=3, adapter="runs/b", learning_rate=2e-3)
    body = yaml.safe_dump(dataclasses.asdict(sound), sort_keys=False).encode()

    def check(config):
        again = make_config(dataclasses.asdict(config))
        assert again == config
        assert config.learning_rate is None or math.isfinite(config.learning_rate)

    check_survives(path, damaged(body, 1200), lambda: load_config(path), check)


@pytest.fixture
def adapter(tmp_path):
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "lora_dropout": 0.0,
                "target_modules": ["q_proj", "v_proj"], "rank_pattern": {}, "alpha_pattern": {},
                "modules_to_save": None, "task_type": "CAUSAL_LM"}  # fmt: skip
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings, indent=1))
    torch.manual_seed(0)
    tensors = {}
    for name in ("q_proj", "v_proj"):
        stem = f"base_model.model.model.layers.0.self_attn.{name}.lora_"
        tensors |= {f"{stem}A.weight": torch.randn(4, 8), f"{stem}B.weight": torch.randn(8, 4)}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    require_safe_adapter(tmp_path)
    return tmp_path


def test_adapters(adapter):
    def check(_):
        for tensor in load_file(adapter / "adapter_model.safetensors").values():
            assert tensor.isfinite().all()
            assert 4 in tensor.shape

    for name, count in (("adapter_config.json", 1000), ("adapter_model.safetensors", 1200)):
        path = adapter / name
        sound = path.read_bytes()
        check_survives(path, damaged(sound, count), lambda: require_safe_adapter(adapter), check)
        path.write_bytes(sound)


def test_a_fingerprint_changes_with_every_byte_that_counts(adapter):
    path = adapter / "adapter_model.safetensors"
    sound = fingerprint([path])
    tensors = {name: t.clone() for name, t in load_file(path).items()}  # not the mapped file

    def check(found):
        now = load_file(path)
        same = now.keys() == tensors.keys() and all(
            now[name].shape == tensors[name].shape
            and now[name].dtype == tensors[name].dtype
            and now[name].numpy().tobytes() == tensors[name].numpy().tobytes()
            for name in tensors
        )
        assert (found == sound) == same

    check_survives(path, damaged(path.read_bytes(), 500, 1), lambda: fingerprint([path]), check)


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_vocab_size(6)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_token_list([b"a", b"b", b"\xf0\x9f", b"<s>", b"e", b"f"])
    writer.add_token_scores([0.0] * 6)
    writer.add_bool("tokenizer.ggml.add_bos_token", True)
    writer.add_tensor("token_embd.weight", np.ones((6, 32), np.float32))
    writer.add_tensor("blk.0.ffn_up.weight", np.ones((64, 32), np.float16))
    writer.add_tensor("blk.0.attn_q.weight", np.ones((32, 34), np.uint8),
                      raw_dtype=gguf.GGMLQuantizationType.Q8_0)  # fmt: skip
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_gguf_headers(model):
    sound = model.read_bytes()
    end = read_gguf_header(model).tensors[0].start

    def check(header):
        assert header.tensors
        known = {tensor.name: tensor for tensor in gguf.GGUFReader(model).tensors}
        assert known.keys() == {tensor.name for tensor in header.tensors}
        for tensor in header.tensors:
            assert tensor.start == known[tensor.name].data_offset
            assert tensor.end - tensor.start == known[tensor.name].n_bytes
            assert tensor.shape == tuple(known[tensor.name].shape.tolist())
            assert tensor.end <= model.stat().st_size

    check_survives(model, damaged(sound, 1500, where=end), lambda: read_gguf_header(model), check)


def test_manifests(tmp_path):
    sound = manifest.Manifest(
        made="2025-01-01", hashes={"base weights": "ab" * 32, "data": "cd" * 32}, base="/b",
        data="/d", template="{{ x }} 🙂", config={"rank": 4, "epochs": 1.0, "adapter": None},
        versions={"torch": "2"}, machine="m", seeds={"all": 0}, commit=None,
    )  # fmt: skip
    manifest.write(tmp_path, sound)
    path = tmp_path / manifest.NAME

    def check(found):
        assert found == sound

    check_survives(path, damaged(path.read_bytes(), 1200), lambda: manifest.read(tmp_path), check)


def test_checkpoints(tmp_path):
    names = (*checkpoint._PARTS, "adapter_model.safetensors")

    def write(folder):
        for name in names:
            (folder / name).write_text(f"{name} " * 20)

    whole = checkpoint.save_checkpoint(tmp_path, 7, write)
    assert checkpoint.damage(whole) == ""
    told = json.loads((whole / "manifest.json").read_text())
    for name in (*names, "manifest.json"):
        path = whole / name
        sound = path.read_bytes()
        for body in damaged(sound, 100, len(name)):
            path.write_bytes(body)
            if not checkpoint.damage(whole):
                assert body == sound or json.loads(body) == told, name
        path.write_bytes(sound)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)  # fmt: skip
FIELD = st.sampled_from(["messages", "prompt", "completion", "instruction", "output", "input",
                         "conversations"])  # fmt: skip
TURN = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system"]) | JSON,
                              "content": st.text(max_size=5) | JSON})  # fmt: skip


@quick
@given(st.lists(st.dictionaries(FIELD, JSON | st.lists(TURN, max_size=3), max_size=3), max_size=4))
def test_rows_of_any_shape(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    try:
        conversations = read(path)
    except DataError:
        return
    check_rows(conversations)
    assert len(conversations) == len(rows)


@quick
@given(st.dictionaries(st.sampled_from([f.name for f in dataclasses.fields(TrainConfig)]), JSON))
def test_configs_of_any_values(values):
    try:
        config = make_config({"data": "a", "output": "b", **values})
    except KitError:
        return
    for name, value in values.items():
        if value is not None and not isinstance(value, float):
            assert str(getattr(config, name)) in (str(value), str(float(value))) or value == ""


@quick
@given(st.binary(max_size=200), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_gguf_headers_of_any_bytes(tmp_path_factory, body, tensors, pairs):
    path = tmp_path_factory.getbasetemp() / "any.gguf"
    head = b"GGUF" + (3).to_bytes(4, "little")
    path.write_bytes(head + tensors.to_bytes(8, "little") + pairs.to_bytes(8, "little") + body)
    try:
        read_gguf_header(path)
    except KitError:
        return
    assert tensors * 24 + pairs * 13 <= len(body)


@quick
@given(JSON)
def test_manifests_of_any_json(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp()
    (folder / manifest.NAME).write_text(json.dumps(content))
    with pytest.raises(KitError, match="damaged"):
        manifest.read(folder)

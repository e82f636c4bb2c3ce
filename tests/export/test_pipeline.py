import json
import re
import shutil

import pytest
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from qlora_kit import KitError
from qlora_kit.export import Bound, gguf_vocab, gguf_writer, merging, parity, pipeline
from qlora_kit.runs import adapters, manifest, opening
from qlora_kit.train import TrainConfig, fine_tune
from tests.export.comparisons import naive_merge
from tests.helpers import kit


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    """Two random layers of 64 units feel a rounding far more than a model that knows something."""
    for name, kl, top1 in (("merged", 0.5, 0.8), ("q8_0", 0.5, 0.8)):
        monkeypatch.setitem(parity.BOUNDS, name, Bound(kl, top1))


def everything(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.equality
def test_merged_shards_load_in_plain_transformers(tiny_run, rows, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    out = tmp_path / "merged"
    done = pipeline.export(
        tiny_run, "merged", data=rows, output=out, questions=8, shard_size="60KB"
    )
    assert len(done.files) > 1
    assert (out / "model.safetensors.index.json").exists()
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.dtype == torch.bfloat16
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.chat_template
    assert GenerationConfig.from_pretrained(out).eos_token_id == tokenizer.eos_token_id
    assert done.parity.passed
    assert "## Parity" in (out / "README.md").read_text()
    assert json.loads((out / "parity.json").read_text())["passed"]
    assert done.bytes == sum((out / name).stat().st_size for name in done.files)


def test_a_gguf_file_has_its_modelfile_card_and_report(tiny_run, rows):
    done = pipeline.export(tiny_run, "gguf", data=rows, questions=8)
    assert done.folder == tiny_run / "export/gguf-f16"
    assert everything(done.folder) == ["Modelfile", "README.md", "model-f16.gguf", "parity.json"]
    assert [step.name for step in done.parity.steps] == ["merged, fp32", "GGUF, f16"]
    assert all(step.top1 == 1 and step.tokens_equal == 1 for step in done.parity.steps)
    with pytest.raises(KitError, match="is there already"):
        pipeline.export(tiny_run, "gguf", data=rows)


def test_an_adapter_goes_with_the_base_that_it_fits(tiny_run, rows, tmp_path):
    done = pipeline.export(
        tiny_run, "adapter-gguf", "q8_0", data=rows, output=tmp_path / "a", questions=8
    )
    assert done.files == ("adapter.gguf", "base-q8_0.gguf")
    assert "ADAPTER ./adapter.gguf" in (tmp_path / "a/Modelfile").read_text()


@pytest.mark.slow
def test_into_the_original_weights_within_a_wider_bound(tiny, rows, tmp_path):
    """On rows learned by heart: elsewhere 4 bits of so small a model decide between two colors."""
    few = tmp_path / "few.jsonl"
    few.write_text("".join(rows.read_text().splitlines(keepends=True)[:8]))
    run = tmp_path / "run"
    fine_tune(
        TrainConfig(
            data=str(few),
            output=str(run),
            model=str(tiny),
            epochs=80,
            seed=1,
            learning_rate=5e-3,
            rank=8,
        ),
        progress=False,
    )
    done = pipeline.export(
        run, "gguf", data=few, output=tmp_path / "o", into="original", questions=8
    )
    dequantized = pipeline.export(run, "gguf", data=few, output=tmp_path / "d", questions=8)
    assert done.parity.steps[0].kl_mean > 2 * dequantized.parity.steps[0].kl_mean
    assert "original weights" in (tmp_path / "o/README.md").read_text()
    assert (tmp_path / "o/model-f16.gguf").read_bytes() != (
        tmp_path / "d/model-f16.gguf"
    ).read_bytes()


def fails(run, rows, tmp_path, to="gguf", **extra):
    """What a failing export says, having left nothing behind."""
    with pytest.raises(KitError) as raised:
        pipeline.export(run, to, data=rows, output=tmp_path / "out/x", questions=8, **extra)
    assert not (tmp_path / "out").exists() or not everything(tmp_path / "out")
    return str(raised.value)


@pytest.mark.slow
def test_the_gate_stops_rows_in_the_wrong_order(tiny_run, rows, tmp_path, monkeypatch):
    monkeypatch.setitem(gguf_writer._ARCHITECTURES, "llama", ("llama", False))
    assert "GGUF, f16: " in fails(tiny_run, rows, tmp_path)
    assert "GGUF adapter on f16: " in fails(tiny_run, rows, tmp_path, "adapter-gguf")


def test_the_gate_stops_an_export_that_is_the_base(tiny_run, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "merge_adapter", merging.dense_base)
    assert "no nearer to the adapter" in fails(tiny_run, rows, tmp_path)


def test_the_gate_stops_another_template(tiny_run, rows, tmp_path, monkeypatch):
    def lose(writer, tokenizer, size, stops):
        add(writer, tokenizer, size, stops)
        writer.add_chat_template(tokenizer.chat_template.replace("assistant", "bot"))

    add = gguf_vocab.add_tokenizer
    monkeypatch.setattr(gguf_writer, "add_tokenizer", lose)
    assert "the chat template differs" in fails(tiny_run, rows, tmp_path)


def test_the_gate_stops_other_tokens(tiny_run, rows, tmp_path, monkeypatch):
    from gguf import GGUFWriter

    add = GGUFWriter.add_token_merges
    monkeypatch.setattr(GGUFWriter, "add_token_merges", lambda self, merges: add(self, merges[:1]))
    assert "of the texts give the same token ids" in fails(tiny_run, rows, tmp_path)


def test_an_empty_adapter_is_refused(tiny_run, rows, tmp_path):
    folder = tmp_path / "empty"
    shutil.copytree(tiny_run, folder)
    (folder / "manifest.json").unlink()  # as of an adapter from elsewhere
    weights = load_file(folder / "adapter_model.safetensors")
    empty = {k: torch.zeros_like(v) if "lora_B" in k else v for k, v in weights.items()}
    save_file(empty, folder / "adapter_model.safetensors")
    for to in pipeline.TARGETS:
        assert "is empty" in fails(folder, rows, tmp_path, to)


@pytest.mark.parametrize("to", ["gguf", "adapter-gguf"])
def test_base_and_run_are_opened_and_checked_once(tiny_run, rows, tmp_path, monkeypatch, to):
    import transformers

    calls = []

    def counted(module, name):
        function = getattr(module, name)

        def wrapper(*arguments, **options):
            calls.append(name)
            return function(*arguments, **options)

        monkeypatch.setattr(module, name, wrapper)

    counted(transformers.AutoModelForCausalLM, "from_pretrained")
    counted(opening, "load_config")
    counted(manifest, "require_match")
    counted(adapters, "require_safe_adapter")
    pipeline.export(tiny_run, to, data=rows, output=tmp_path / "out", questions=2)
    assert sorted(calls) == [
        "from_pretrained",
        "load_config",
        "require_match",
        "require_safe_adapter",
    ]


def test_a_connection_that_breaks_is_not_called_a_disk_that_is_full(
    tiny_run, rows, tmp_path, monkeypatch
):
    def breaks(*_):
        raise ConnectionResetError("peer")

    monkeypatch.setattr(pipeline, "gguf_outputs", breaks)
    with pytest.raises(ConnectionResetError):
        pipeline.export(tiny_run, "gguf", data=rows, output=tmp_path / "out/x", questions=2)
    assert not everything(tmp_path / "out")


def test_a_full_disk_is_told_whoever_finds_it(tiny_run, rows, tmp_path, monkeypatch):
    def full(*_):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(pipeline, "_save", full)
    refusal = fails(tiny_run, rows, tmp_path, "merged")
    assert "cannot be written to: No space left on device. Make room there" in refusal


def test_unknown_choices_name_the_known(tiny_run, rows, tmp_path):
    assert "merged, gguf, adapter-gguf" in fails(tiny_run, rows, tmp_path, "onnx")
    assert "f16, q8_0" in fails(tiny_run, rows, tmp_path, quant="q2")
    assert "dequantized, original" in fails(tiny_run, rows, tmp_path, into="nf4")


def test_without_any_conversations_the_way_out_is_told(tiny_run, tmp_path):
    folder = tmp_path / "moved"
    shutil.copytree(tiny_run, folder)
    config = yaml.safe_load((folder / "config.yaml").read_text()) | {"data": "gone.jsonl"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert "--data heldout.jsonl" in fails(folder, None, tmp_path)


@pytest.fixture
def columns_run(tiny_run, tmp_path):
    """The run, as if its training rows had had the columns `question` and `answer`."""
    folder = tmp_path / "columns"
    shutil.copytree(tiny_run, folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config |= {"prompt_field": "question", "completion_field": "answer"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def held_out(rows, path, prompt, completion):
    """The conversations of `rows` in other columns, beside one more that tells nothing."""
    lines = [json.loads(line) for line in rows.read_text().splitlines()]
    renamed = [{prompt: row["prompt"], completion: row["completion"], "n": 1} for row in lines]
    path.write_text("".join(json.dumps(row) + "\n" for row in renamed))
    return path


def test_held_out_rows_have_the_columns_that_the_run_was_trained_on(columns_run, rows, tmp_path):
    data = held_out(rows, tmp_path / "held.jsonl", "question", "answer")
    done = pipeline.export(columns_run, "merged", data=data, output=tmp_path / "a", questions=2)
    assert done.parity.questions == 2
    # Rows of a form that tells itself need no columns, whatever the run was trained on.
    done = pipeline.export(columns_run, "merged", data=rows, output=tmp_path / "b", questions=2)
    assert done.parity.questions == 2


def test_other_columns_are_named_with_the_options_that_the_error_advises(
    columns_run, rows, tmp_path
):
    data = held_out(rows, tmp_path / "held.jsonl", "frage", "antwort")
    output = tmp_path / "out"
    arguments = ("export", columns_run, "--to", "merged", "--data", data, "--output", output)
    refused = kit(*arguments)
    assert refused.returncode == 1
    assert "Found: frage, antwort, n." in refused.stderr
    advised = re.findall(r"--[a-z-]+", refused.stderr)
    assert advised == ["--prompt-field", "--completion-field"]
    columns = (advised[0], "frage", advised[1], "antwort")
    done = kit(*arguments, *columns, "--questions", 2, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["parity"]["questions"] == 2


def test_one_column_alone_is_refused(columns_run, rows, tmp_path):
    assert "neither" in fails(columns_run, rows, tmp_path, prompt_field="prompt")


def test_the_command_line_exports_and_fails_in_one_message(tiny_run, rows, tmp_path):
    command = ("export", tiny_run, "--to", "gguf", "--data", rows, "--output", tmp_path / "out")
    done = kit(*command, "--questions", 4, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["files"] == ["model-f16.gguf"]
    assert told["parity"]["passed"]
    again = kit(*command)
    assert again.returncode == 1
    assert again.stderr.startswith("qlora-kit: ")
    assert "is there already" in again.stderr
    assert "Traceback" not in again.stderr


def test_the_gate_tells_the_naive_merge_from_the_right_one(tiny_run, rows):
    """As lesson 09 does it: the trap and the way out, in one report."""
    from qlora_kit.data import read
    from qlora_kit.export import (
        Parity,
        compare_outputs,
        make_prompts,
        merge,
        model_outputs,
    )
    from qlora_kit.runs import load_run

    model, tokenizer = load_run(tiny_run)
    prompts = make_prompts(model, tokenizer, read(rows), questions=8)
    with model.disable_adapter():
        base = model_outputs(model, tokenizer, prompts)
    adapter = model_outputs(model, tokenizer, prompts)
    steps = []
    for way in (merge, naive_merge):
        outputs = model_outputs(*way(tiny_run), prompts)
        bound = parity.BOUNDS["f16"]
        steps.append(compare_outputs(way.__name__, prompts, base, adapter, outputs, bound))
    assert not steps[0].problems
    assert steps[1].kl_mean > 100 * steps[0].kl_mean
    assert not Parity(8, 1.0, tuple(steps)).passed

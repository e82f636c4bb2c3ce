"""Adapters: which layers get them, several on one base, and training one further."""

import pytest
import torch

from qlora_kit import KitError
from qlora_kit.models import load
from qlora_kit.runs import TrainConfig, adapter_bytes, load_adapter, load_adapters, load_run
from qlora_kit.train import fine_tune


@pytest.fixture(scope="module")
def runs(tiny, rows, tmp_path_factory):
    home = tmp_path_factory.mktemp("adapters")
    made = {}
    for seed, name in enumerate(("one", "two")):
        made[name] = fine_tune(
            TrainConfig(
                data=str(rows),
                output=str(home / name),
                model=str(tiny),
                max_steps=6,
                rank=4,
                learning_rate=5e-3,
                seed=seed,
            ),
            progress=False,
        ).path
    return made


def logits(model):
    with torch.inference_mode():
        return model(input_ids=torch.arange(5, 15).unsqueeze(0)).logits.float()


def test_switching_gives_each_adapter_its_own_voice(tiny, runs):
    alone = {name: logits(load_run(path)[0]) for name, path in runs.items()}
    together = load_adapters(load(str(tiny))[0], runs)
    assert torch.equal(logits(together), alone["one"])
    for name in ("two", "one", "two"):
        together.set_adapter(name)
        assert torch.equal(logits(together), alone[name])
    assert not torch.equal(alone["one"], alone["two"])


def test_an_adapter_is_trained_further(tiny, rows, runs, tmp_path):
    def more(output, **changes):
        config = TrainConfig(
            data=str(rows),
            output=str(tmp_path / output),
            model=str(tiny),
            max_steps=4,
            learning_rate=5e-3,
            **changes,
        )
        run = fine_tune(config, progress=False)
        first = float((run.path / "metrics.jsonl").read_text().split('"loss": ')[1].split(",")[0])
        return run, first

    run, first = more("further", adapter=str(runs["one"]))
    _, fresh = more("fresh")
    assert first < fresh - 0.1
    before, after = logits(load_run(runs["one"])[0]), logits(load_run(run.path)[0])
    assert not torch.equal(before, after)
    assert (tmp_path / "further/adapter_config.json").read_text().count('"r": 4') == 1


def test_the_bytes_are_those_of_the_file(runs):
    assert adapter_bytes(runs["one"]) == (runs["one"] / "adapter_model.safetensors").stat().st_size


def test_what_is_no_adapter_is_named(tiny, runs, tmp_path):
    model, _ = load(str(tiny))
    with pytest.raises(KitError, match=r"no adapter_config\.json"):
        load_adapter(model, tmp_path)
    with pytest.raises(KitError, match="no adapter to load"):
        load_adapters(model, {})
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_bytes((runs["one"] / name).read_bytes())
    (tmp_path / "adapter_model.safetensors").write_bytes(b"broken")
    with pytest.raises(KitError, match="cannot be loaded"):
        load_adapter(model, tmp_path)

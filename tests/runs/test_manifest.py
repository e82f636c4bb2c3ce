import dataclasses
import json
import shutil
import warnings
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qlora_kit import KitError
from qlora_kit.cli.app import app
from qlora_kit.runs import TrainConfig, accept, load_run, manifest, require_match, verify
from qlora_kit.train import fine_tune
from tests.tools.gguf_files import write_model


@pytest.fixture(scope="module")
def made(tiny, rows, tmp_path_factory):
    """A base, data and a run of two of three steps' checkpoints, to copy and change."""
    home = tmp_path_factory.mktemp("made")
    shutil.copytree(tiny, home / "base")
    shutil.copy(rows, home / "rows.jsonl")
    config = TrainConfig(
        data=str(home / "rows.jsonl"),
        output=str(home / "run"),
        max_steps=4,
        model=str(home / "base"),
        rank=4,
        save_steps=2,
    )
    fine_tune(config, progress=False)
    return home


@pytest.fixture
def home(made, tmp_path):
    """A copy whose config names the copied base; that a run was moved must not matter."""
    shutil.copytree(made, tmp_path / "home")
    file = tmp_path / "home/run/config.yaml"
    file.write_text(file.read_text().replace(str(made), str(tmp_path / "home")))
    return tmp_path / "home"


def flip(path, at=-3):
    body = bytearray(path.read_bytes())
    body[at] ^= 1
    path.write_bytes(bytes(body))


def states(report):
    return {item.name: item.state for item in report.items if item.state != "same"}


def test_a_run_is_recorded_whole(made):
    found = manifest.read(made / "run")
    assert set(found.hashes) == {
        "base weights",
        "base config",
        "tokenizer",
        "chat template",
        "data",
        "trained weights",
        "adapter config",
    }
    assert "im_start" in found.template
    assert found.config["rank"] == 4
    assert {"torch", "peft"} < set(found.versions)
    assert verify(made / "run").ok


def test_a_moved_run_on_a_moved_base_is_the_same(home):
    assert states(verify(home / "run")) == {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        require_match(home / "run", str(home / "base"))


@pytest.mark.parametrize(
    ("file", "what"),
    [
        ("base/model.safetensors", "base weights"),
        ("run/adapter_model.safetensors", "trained weights"),
    ],
)
def test_one_changed_bit_is_refused_until_it_is_accepted(home, file, what):
    flip(home / file)
    assert states(verify(home / "run")) == {what: "changed"}
    with pytest.raises(KitError, match=rf"{what} changed since.*verify .*run --accept"):
        load_run(home / "run")
    assert accept(home / "run").ok
    require_match(home / "run", str(home / "base"))
    assert verify(home / "run").accepted[0].endswith(f": {what}")


def test_another_template_or_vocabulary_is_refused_and_another_config_said(home):
    template = home / "base/chat_template.jinja"
    template.write_text(template.read_text() + " ")
    with pytest.raises(KitError, match="chat template changed"):
        require_match(home / "run", str(home / "base"))
    file = home / "base/tokenizer.json"
    told = json.loads(file.read_text())
    told["added_tokens"][0]["content"] = "<|other|>"
    file.write_text(json.dumps(told))
    with pytest.raises(KitError, match="tokenizer and chat template changed"):
        require_match(home / "run", str(home / "base"))
    file = home / "base/config.json"
    file.write_text(file.read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'))
    assert states(verify(home / "run"))["base config"] == "differs"


def test_changed_data_and_settings_are_said_and_do_not_stop_an_eval(home):
    with (home / "rows.jsonl").open("a") as file:
        file.write("\n")
    config = home / "run/config.yaml"
    config.write_text(config.read_text().replace("rank: 4", "rank: 8"))
    report = verify(home / "run")
    assert states(report) == {"data": "changed", "setting rank": "changed"}
    assert any(item.mend == "set 'rank: 4' in config.yaml" for item in report.items)
    require_match(home / "run", str(home / "base"))
    found = dataclasses.replace(manifest.read(home / "run"), data="/gone")
    manifest.write(home / "run", found)
    (home / "rows.jsonl").unlink()
    config.write_text(config.read_text().replace("rank: 8", "rank: 4"))
    assert states(verify(home / "run")) == {"data": "missing"}
    assert verify(home / "run").ok


def test_a_run_of_an_earlier_version_is_used_unverified_and_can_be_recorded(home):
    (home / "run" / manifest.NAME).unlink()
    with pytest.warns(UserWarning, match=r"no manifest\.json .*going on unverified"):
        model, _ = load_run(home / "run")
    assert model is not None
    with pytest.raises(KitError, match="unverified"):
        verify(home / "run")
    assert accept(home / "run").ok


def test_a_damaged_manifest_is_refused_and_can_be_made_anew(home):
    flip(home / "run" / manifest.NAME, 200)
    with pytest.raises(KitError, match=r"damaged.*--accept"):
        require_match(home / "run", str(home / "base"))
    assert accept(home / "run").ok


def test_a_run_goes_on_only_with_what_it_began_with(home):
    config = TrainConfig(
        data=str(home / "rows.jsonl"),
        output=str(home / "run"),
        max_steps=4,
        model=str(home / "base"),
        rank=4,
        save_steps=2,
    )
    shutil.rmtree(home / "run/checkpoints/checkpoint-4")
    row = '{"prompt": "New?", "completion": "Yes."}\n'
    data = home / "rows.jsonl"
    sound = data.read_text()
    data.write_text(row + sound)
    with pytest.raises(KitError, match="data changed since it began"):
        fine_tune(config, resume=True, progress=False)
    assert (home / "run/run.json").exists()
    data.write_text(sound)
    fine_tune(config, resume=True, progress=False)
    assert verify(home / "run").ok


def test_a_run_goes_on_where_base_and_data_were_moved_to(home):
    wanted = (home / "run/adapter_model.safetensors").read_bytes()
    shutil.rmtree(home / "run/checkpoints/checkpoint-4")
    for name in ("base", "rows.jsonl"):
        shutil.move(home / name, home / f"moved-{name}")
    config = TrainConfig(
        data=str(home / "moved-rows.jsonl"),
        output=str(home / "run"),
        model=str(home / "moved-base"),
        max_steps=4,
        rank=4,
        save_steps=2,
    )
    fine_tune(config, resume=True, progress=False)
    assert (home / "run/adapter_model.safetensors").read_bytes() == wanted
    assert verify(home / "run").ok


def test_the_first_adapter_is_recorded_and_must_fit_the_base(home):
    again = TrainConfig(
        data=str(home / "rows.jsonl"),
        output=str(home / "more"),
        max_steps=2,
        model=str(home / "base"),
        adapter=str(home / "run"),
    )
    fine_tune(again, progress=False)
    assert "first adapter" in manifest.read(home / "more").hashes
    flip(home / "base/model.safetensors")
    with pytest.raises(KitError, match="base weights changed"):
        fine_tune(dataclasses.replace(again, output=str(home / "third")), progress=False)


def test_the_command_tells_people_and_scripts(home):
    done = CliRunner().invoke(app, ["verify", str(home / "run")])
    assert done.exit_code == 0, done.output
    assert done.output.endswith("Nothing changed.\n")
    flip(home / "run/adapter_model.safetensors")
    done = CliRunner().invoke(app, ["verify", str(home / "run")])
    assert done.exit_code == 1
    assert "changed  trained weights" in done.output
    assert "mend it: copy the run from a backup, or train again" in done.output
    told = json.loads(CliRunner().invoke(app, ["verify", str(home / "run"), "--json"]).output)
    assert told["ok"] is False
    assert [item["name"] for item in told["items"] if item["state"] == "changed"] == [
        "trained weights"
    ]
    assert CliRunner().invoke(app, ["verify", str(home / "run"), "--accept"]).exit_code == 0


@pytest.fixture
def on_unconverted_gguf(home, monkeypatch):
    """The copied run, its base a GGUF file that this machine has never loaded."""
    gguf = write_model(home / "base.gguf", shapes={"token_embd.weight": (8, 6)})
    config = home / "run/config.yaml"
    config.write_text(config.read_text().replace(str(home / "base"), str(gguf)))
    monkeypatch.setenv("QLORA_KIT_CACHE", str(home / "cache"))
    monkeypatch.setattr(
        "qlora_kit.models.cache.convert_gguf", lambda *_: pytest.fail("verify must only look")
    )
    return home / "run"


def test_a_base_that_is_not_here_is_said_and_nothing_is_converted(on_unconverted_gguf):
    done = CliRunner().invoke(app, ["verify", str(on_unconverted_gguf)])
    assert done.exit_code == 0, done.output
    base = "base weights, base config, tokenizer, chat template"
    assert done.output.endswith(f"Nothing changed of what is here; not here to compare: {base}.\n")
    assert "mend it: set 'model' in config.yaml to where it is; a bundled" in done.output
    assert accept(on_unconverted_gguf).ok
    assert "base weights" in manifest.read(on_unconverted_gguf).hashes


def test_a_run_without_a_manifest_is_not_recorded_without_its_base(on_unconverted_gguf):
    (on_unconverted_gguf / manifest.NAME).unlink()
    with pytest.raises(KitError, match=r"base\.gguf, the base of .* not ready on this machine"):
        accept(on_unconverted_gguf)
    assert not (on_unconverted_gguf / manifest.NAME).exists()


def test_the_hash_of_a_base_is_remembered_and_forgotten_when_it_changes(home, monkeypatch):
    from qlora_kit.machine import files
    from qlora_kit.models import weights

    monkeypatch.setenv("QLORA_KIT_CACHE", str(home / "cache"))
    monkeypatch.setattr(files, "_SETTLED", -1.0)
    [file] = weights.weight_files(home / "base")
    first = weights.fingerprint([file])
    monkeypatch.setattr(weights, "read_header", lambda path: pytest.fail("read again"))
    assert weights.fingerprint([file]) == first
    monkeypatch.undo()
    monkeypatch.setenv("QLORA_KIT_CACHE", str(home / "cache"))
    flip(file)
    assert weights.fingerprint([file]) != first


def test_weights_in_many_files_have_the_same_hash(home):
    from safetensors.torch import load_file, save_file

    from qlora_kit.models import fingerprint, weight_files

    tensors, folder = load_file(home / "base/model.safetensors"), home / "sharded"
    folder.mkdir()
    names = sorted(tensors)
    where = {name: f"part-{index % 3}.safetensors" for index, name in enumerate(names)}
    for part in set(where.values()):
        save_file({n: tensors[n] for n in names if where[n] == part}, folder / part)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    assert fingerprint(weight_files(folder)) == fingerprint(weight_files(home / "base"))
    index.write_text(json.dumps({"weight_map": {"a": "../base/model.safetensors"}}))
    with pytest.raises(KitError, match="elsewhere"):
        weight_files(folder)


def test_a_full_disk_at_the_end_leaves_the_checkpoints(home):
    """What the last save cannot write, a resumed run writes from the last checkpoint."""
    import resource

    from qlora_kit.runs import with_room

    def refused():
        Path(home / "large").write_bytes(bytes(200_000))

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(KitError, match=r"File too large.*--resume"):
            with_room(home / "run", refused)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    wanted = (home / "run/adapter_model.safetensors").read_bytes()
    (home / "run/run.json").unlink()  # as after a kill between the last step and the end
    (home / "run/adapter_model.safetensors").write_bytes(b"half")
    config = TrainConfig(
        data=str(home / "rows.jsonl"),
        output=str(home / "run"),
        max_steps=4,
        model=str(home / "base"),
        rank=4,
        save_steps=2,
    )
    run = fine_tune(config, resume=True, progress=False)
    assert run.status == "finished"
    assert run.steps == 4
    assert (home / "run/adapter_model.safetensors").read_bytes() == wanted

"""The command line as people use it: what it prints and its exit code."""

import json
import subprocess
import sys

import pytest

from tests.helpers import kit, kit_process

COMMANDS = (
    "doctor", "models", "documents", "audit", "train", "eval", "tasks", "chat", "demo", "plan",
    "verify",
    "export",
    "serve",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    rows = folder / "rows.jsonl"
    rows.write_text("".join(
        json.dumps({"messages": [{"role": "system", "content": "Be brief."},
                                 {"role": "user", "content": f"Light {n}? 🙂"},
                                 {"role": "assistant", "content": "It is red."}]}) + "\n"
        for n in range(16)
    ))  # fmt: skip
    done = kit("train", rows, "--model", tiny, "--output", folder / "run", "--epochs", 12,
               "--rank", 8, "--learning-rate", 5e-3, "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "run", rows, json.loads(done.stdout)


def test_help_answers_without_loading_torch():
    shown = kit_process("--help").stdout
    assert all(command in shown for command in COMMANDS)
    code = "import sys, qlora_kit.cli; print({'torch', 'transformers', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_shows_an_example(command):
    assert f"Example: qlora-kit {command}" in " ".join(kit(command, "--help").stdout.split())


def test_training_tells_scripts_what_it_did(run):
    folder, _, told = run
    assert told["status"] == "finished"
    assert told["path"] == str(folder)
    assert told["tokens_per_second"] > 0


def test_eval_writes_scoreboard_and_report(run):
    folder, rows, _ = run
    done = kit("eval", folder, rows, "--no-probe", "--max-new-tokens", 12, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((folder / "scoreboard.json").read_text())
    assert (folder / "report.html").exists()
    assert "16 of 16 rows" in done.stderr
    assert "TRAINED ON" in done.stderr
    assert "16 of 16 rows it was trained on" in (folder / "report.html").read_text()
    shown = kit("eval", folder, rows, "--no-probe", "--max-new-tokens", 2)
    assert "token F1" in shown.stdout
    assert "16 of 16 reference answers are longer than --max-new-tokens 2" in shown.stderr


def test_documents_become_training_and_test_rows(tmp_path):
    (tmp_path / "docs").mkdir()
    for page in ("pump", "lamp"):
        (tmp_path / f"docs/{page}.md").write_text(
            f"# The {page}\n\nIt hums.\n\n## Care\n\nDust it."
        )
    done = kit("documents", tmp_path / "docs", "--output", tmp_path / "out", "--json")
    assert json.loads(done.stdout)["train_rows"] == 2
    rows = [json.loads(line) for line in (tmp_path / "out/test.jsonl").read_text().splitlines()]
    assert len({row["document"] for row in rows}) == 1


@pytest.mark.slow
def test_tasks_of_ones_own_run_offline(run, tmp_path):
    from qlora_kit.evaluate import ProbeItem, write_task

    write_task([ProbeItem("Light 3?", ("It is red.", "No."), 0)] * 4, tmp_path, "lights")
    done = kit("tasks", run[0], "lights", "--folder", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    assert {"task": "lights", "metric": "acc", "value": 1.0} in [
        {name: row[name] for name in ("task", "metric", "value")} for row in json.loads(done.stdout)
    ]
    wrong = kit("tasks", run[0], "ligths", "--folder", tmp_path)
    assert wrong.returncode == 1
    assert "No task ligths" in wrong.stderr


@pytest.mark.slow
def test_chat_answers_once_or_in_turns(run):
    folder, _, _ = run
    told = json.loads(kit("chat", folder, "--prompt", "Light 3? 🙂", "--json").stdout)
    assert told["answer"] == "It is red."
    assert told["stopped"]
    talk = kit_process("chat", folder, input="Light 4? 🙂\n\n")
    assert "model> It is red." in talk.stdout
    assert talk.returncode == 0


def _files(folder):
    (folder / "empty.jsonl").write_text("")
    (folder / "binary.jsonl").write_bytes(bytes(range(256)))
    good = json.dumps({"prompt": "a", "completion": "b"}) + "\n"
    (folder / "broken.jsonl").write_text(good * 316 + "{\n" + good)
    (folder / "turns.jsonl").write_text(
        json.dumps({"messages": [{"role": "user", "content": "a"}]})
    )
    (folder / "role.jsonl").write_text(json.dumps({"messages": [{"role": "bot", "content": "a"}]}))
    (folder / "fields.jsonl").write_text(json.dumps({"question": "a", "answer": "b"}))
    (folder / "good.jsonl").write_text(good)
    return folder


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "empty.jsonl", "--output", "run"], "is empty"),
        (["train", "binary.jsonl", "--output", "run"], "not UTF-8"),
        (["train", "broken.jsonl", "--output", "run"], "row 317: not valid JSON"),
        (["train", "turns.jsonl", "--output", "run"], "no assistant turn"),
        (["train", "role.jsonl", "--output", "run"], "role 'bot'"),
        (["train", "fields.jsonl", "--output", "run"], "--prompt-field question"),
        (["train", "absent.jsonl", "--output", "run"], "There is no file"),
        (["train", "good.jsonl", "--output", "run", "--model", "smolm2"], "Did you mean 'smollm2'"),
        (["train", "good.jsonl"], "output missing"),
        (["train", "good.jsonl", "--output", "good.jsonl"], "is a file"),
        (
            ["train", "good.jsonl", "--output", "run", "--rank", "0"],
            "rank must be greater than 0, not 0",
        ),
        (["train", "--config", "absent.yaml"], "cannot be read"),
        (["eval", "absent", "good.jsonl"], "not a run"),
        (["chat", "absent", "--prompt", "a"], "not a run"),
        (["chat", "absent", "--model", "a", "--prompt", "a"], "an adapter of a server"),
        (["chat", "http://127.0.0.1:1", "--prompt", "a"], "Nothing answers"),
        (["serve", "absent.gguf"], "is not there"),
        (["tasks", "absent", "arc_easy"], "not a run"),
        (["documents", "absent", "--output", "run"], "not a folder of documents"),
        (["models", "fetch", "gpt5"], "not a bundled model"),
    ],
)
def test_bad_input_is_one_message_and_no_traceback(tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(_files(tmp_path))
    done = kit(*arguments)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert not (tmp_path / "run" / "adapter_config.json").exists()


def test_a_process_ends_with_one_message_and_code_1(tmp_path):
    done = kit_process("eval", tmp_path / "absent", tmp_path / "rows.jsonl")
    assert done.returncode == 1
    assert done.stderr.startswith("qlora-kit: ")
    assert done.stderr.count("\n") == 1


def test_after_bad_input_the_same_command_works(tmp_path, tiny, monkeypatch):
    monkeypatch.chdir(_files(tmp_path))
    arguments = ["--output", "run", "--model", tiny, "--max-steps", 2, "--rank", 2]
    assert kit("train", "good.jsonl", "--output", "run", "--model", "nosuch").returncode == 1
    assert kit("train", "good.jsonl", *arguments).returncode == 0


def test_models_lists_what_is_here():
    names = [row["name"] for row in json.loads(kit("models", "--json").stdout)]
    assert "smollm2" in names

"""The machinery that runs the course, on trivial notebooks: above all, that it can fail."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat import v4
from rich.console import Console

from qlora_kit import KitError
from qlora_kit.course import papermill_engine, read_run, report, run_course, write_baseline
from qlora_kit.course import progress as progress_file
from qlora_kit.course.baselines import Expected
from qlora_kit.course.lessons.claims import Metric
from qlora_kit.course.notebooks import find_notebooks, parameters_of
from qlora_kit.course.profiles import read_profile
from qlora_kit.course.report import save_report
from tests.helpers import kit

PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ"
    "AAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
GOOD = [
    ("parameters", "n = 1\nrate: float = 2e-4\nname = 'x'\n# note = 3"),
    (
        "",
        "from pathlib import Path\nfrom qlora_kit.course import claim, record\n"
        "import sys\nPath('litter.txt').write_text('x')",
    ),
    (
        "",
        f"claim('same_python', sys.executable == {sys.executable!r})\nclaim('given', n == 2, n=n)",
    ),
    ("", "record('perplexity', 28.4, 'nats a token')\nrecord('speed', 9.0, 'tokens/s')"),
    (
        "",
        "from IPython.display import display\n"
        f"display({{'image/png': {PIXEL!r}}}, raw=True,\n"
        "        metadata={'image/png': {'alt': 'A <dot>'}})",
    ),
]
COURSE = {
    "01_good": GOOD,
    "02_false": [
        (
            "",
            "from qlora_kit.course import claim\nclaim('never', 1 > 2, one=1, two=2)\n"
            "claim('always', True)",
        )
    ],
    "03_error": [("", "x = 1"), ("", "raise ValueError('<b>no</b> & never')")],
    "04_hang": [("", "import time\ntime.sleep(100)")],
    "05_killed": [
        (
            "",
            "import os, signal, subprocess, time\nchild = subprocess.Popen(['sleep', '200'])\n"
            "open('child', 'w').write(str(child.pid))\ntime.sleep(0.6)",
        ),
        ("", "os.kill(os.getpid(), signal.SIGKILL)"),
    ],
    "06_leaves": [("", "import sys\nsys.exit(0)"), ("", "never = 1")],
    "07_asks": [
        ("raises-exception", "input('Your token: ')"),
        ("", "from qlora_kit.course import claim\nclaim('went_on', True)"),
    ],
}


def write_notebook(path, cells):
    book = v4.new_notebook(cells=[v4.new_markdown_cell("# A title")])
    for tag, source in cells:
        book.cells.append(v4.new_code_cell(source, metadata={"tags": [tag] if tag else []}))
    nbformat.write(book, path)


def write_course(folder, notebooks, **profiles):
    (folder / "profiles").mkdir(parents=True)
    for stem, cells in notebooks.items():
        write_notebook(folder / f"{stem}.ipynb", cells)
    for name, text in {"smoke": "{}", **profiles}.items():
        (folder / "profiles" / f"{name}.yaml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """All of the notebooks above, run once, with braces in the path and a broken python3."""
    folder = tmp_path_factory.mktemp("a {course}")
    books = write_course(folder / "notebooks", COURSE, smoke="01_good: {n: 2}")
    write_baseline(
        {"01_good": {"perplexity": Expected(20.0, "nats a token", 1.0)}},
        folder / "baselines" / "smoke.json",
    )
    spec = folder / "jupyter" / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": ["/no/such/python"], "display_name": "x"}))
    with pytest.MonkeyPatch.context() as patch, open(folder / "console.txt", "w") as file:
        patch.setenv("JUPYTER_PATH", str(folder / "jupyter"))
        patch.chdir(folder)
        run = run_course(
            [],
            "smoke",
            Path("out"),
            books,
            timeout=5,
            console=Console(file=file),
            baselines=folder / "baselines",
        )
    return run, folder / "out"


def test_one_failing_notebook_does_not_stop_the_others(ran):
    run, _ = ran
    assert {name: result.status for name, result in run.notebooks.items()} == {
        "01_good": "passed",
        "02_false": "failed",
        "03_error": "failed",
        "04_hang": "timeout",
        "05_killed": "killed",
        "06_leaves": "failed",
        "07_asks": "passed",
    }


@pytest.mark.parametrize(
    ("notebook", "said"),
    [
        ("01_good", ""),
        ("02_false", "the claim does not hold: never  (one 1, two 2)"),
        ("03_error", "cell [2]: ValueError: <b>no</b> & never"),
        ("04_hang", "cell [1]: it ran longer than 5 s"),
        ("05_killed", "cell [2]: the kernel died of SIGKILL; its peak was 0."),
        ("06_leaves", "cell [1]: SystemExit: 0"),
    ],
)
def test_each_failure_is_named(ran, notebook, said):
    run, _ = ran
    assert run.notebooks[notebook].message.startswith(said)


def test_results_are_recorded(ran):
    run, out = ran
    good = run.notebooks["01_good"]
    assert [(claim.name, claim.held, claim.numbers) for claim in good.claims] == [
        ("same_python", True, {}),
        ("given", True, {"n": 2.0}),
    ]
    assert good.metrics[0] == Metric("perplexity", 28.4, "nats a token")
    assert 0.02 < good.peak_rss_gb < 2
    assert good.minutes > 0
    assert [claim.held for claim in run.notebooks["02_false"].claims] == [False, True]
    told = json.loads((out / "metrics.json").read_text())
    assert set(told) == {"profile", "versions", "machine", "notebooks"}
    assert told["notebooks"]["01_good"]["metrics"]["speed"] == {
        "value": 9.0,
        "unit": "tokens/s",
        "machine": False,
    }
    assert read_run(out).notebooks.keys() == run.notebooks.keys()


def test_executed_notebooks_say_where_they_stopped(ran):
    _, out = ran
    for stem, marks in (("05_killed", [False, True]), ("04_hang", [True])):
        book = nbformat.read(out / "executed" / f"{stem}.ipynb", as_version=4)
        cells = [cell for cell in book.cells if cell.cell_type == "code"]
        assert [cell.metadata.papermill.exception for cell in cells] == marks
    text = (out / "executed" / "07_asks.ipynb").read_text()
    assert "StdinNotImplementedError" in text
    assert "An Exception was encountered" not in text
    assert nbformat.reads(text, as_version=4).metadata.papermill.input_path == "07_asks.ipynb"


def test_what_notebooks_write_stays_in_their_scratch_folder(ran):
    _, out = ran
    assert (out / "scratch" / "01_good" / "litter.txt").exists()
    assert {path.name for path in out.parent.iterdir()} == {
        "notebooks",
        "baselines",
        "jupyter",
        "console.txt",
        "out",
    }


def test_a_dead_kernel_leaves_no_process(ran):
    _, out = ran
    pid = int((out / "scratch" / "05_killed" / "child").read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_without_a_terminal_each_notebook_is_one_line(ran):
    _, out = ran
    lines = (out.parent / "console.txt").read_text().splitlines()
    assert len(lines) == len(COURSE)
    assert lines[0].startswith("01_good: passed, 2 of 2 claims held, 0.")


def test_the_report_is_self_contained_and_escaped(ran):
    _, out = ran
    page = (out / "report.html").read_text()
    for shown in (
        "2 of 7 notebooks passed; 4 of 5 claims held.",
        "not what the baseline expects: 1.",
        "ValueError: &lt;b&gt;no&lt;/b&gt; &amp; never",
        "DOES NOT HOLD",
        "<td>28.4 nats a token</td><td>20 ± 1 nats a token</td><td>OUT OF BAND</td>",
        "the machine decides: not judged",
        f"<img alt='A &lt;dot&gt;' src='data:image/png;base64,{PIXEL}'>",
    ):
        assert shown in page
    assert "<b>no</b>" not in page
    assert not re.search(r"""(src|href)=['"]?(http|//|[\w/]+\.png)""", page)


def test_the_live_table_has_a_row_for_each_notebook():
    progress = [
        papermill_engine.Progress("01_good", "running", 3, 7, 0.5, 1.5, time.perf_counter() - 90)
    ]
    progress.append(papermill_engine.Progress("02_next"))
    console = Console(width=100, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(progress_file.View(console, progress)._table())
    text = console.export_text()
    assert re.search(r"01_good\s+│\s+3/7 │\s+1\.5 │\s+0\.5 │\s+1\.5 │ running", text)
    assert re.search(r"02_next\s+│\s+│.*waiting", text)


def test_a_passed_notebook_is_kept_until_something_changes(tmp_path):
    source = "from qlora_kit.course import claim\nclaim('fine', True)"
    books = write_course(tmp_path / "notebooks", {"01_a": [("", source)]}, t4="{}")
    out = tmp_path / "out"
    first = run_course(["1"], "smoke", out, books)
    when = (out / "executed" / "01_a.ipynb").stat().st_mtime_ns
    assert run_course(["01"], "smoke", out, books) == first
    assert (out / "executed" / "01_a.ipynb").stat().st_mtime_ns == when
    with pytest.raises(KitError, match=r"in profile 'smoke'.*--fresh"):
        run_course([], "t4", out, books)
    write_notebook(books / "01_a.ipynb", [("", source + "\nclaim('more', True)")])
    assert len(run_course([], "smoke", out, books).notebooks["01_a"].claims) == 2


@pytest.mark.slow
def test_after_an_interruption_the_same_command_goes_on(tmp_path):
    wait = (
        "import time\nfrom pathlib import Path\nPath('begun').touch()\n"
        f"while not Path({str(tmp_path / 'go')!r}).exists():\n    time.sleep(0.1)"
    )
    write_course(tmp_path / "notebooks", {"01_a": [("", "x = 1")], "02_b": [("", wait)]})
    command = [sys.executable, "-m", "qlora_kit.cli", "course", "run", "--profile", "smoke"]
    started = subprocess.Popen(
        command,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # shells hide it from jobs
    )
    out = tmp_path / "runs" / "course-smoke"
    begun = out / "scratch" / "02_b" / "begun"
    while not begun.exists():
        assert started.poll() is None, started.stderr.read()
        time.sleep(0.1)
    [kernel] = psutil.Process(started.pid).children()
    started.send_signal(signal.SIGINT)
    _, told = started.communicate(timeout=60)
    assert started.returncode == 130
    assert "the same command goes on" in told
    assert "Traceback" not in told
    assert not kernel.is_running()
    assert {name: r.status for name, r in read_run(out).notebooks.items()} == {"01_a": "passed"}
    when = (out / "executed" / "01_a.ipynb").stat().st_mtime_ns
    (tmp_path / "go").touch()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "2 of 2 notebooks passed" in done.stdout
    assert (out / "executed" / "01_a.ipynb").stat().st_mtime_ns == when


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("01_good: {m: 2}", r"01_good has no parameter 'm'.*There are: n, rate, name"),
        ("01_good: {nam: y}", r"Did you mean 'name'"),
        ("01_goood: {n: 2}", r"no notebook '01_goood'. Did you mean '01_good'"),
        ("01_good: {note: 3}", r"no parameter 'note'"),
        ("02_false: {n: 2}", r"02_false has no parameter 'n'.*There are none"),
        ("01_good: {rate: 2e-4}", r"rate is text, '2e-4'.*a number, 0.0002. .*write 2.0e-4"),
        ("01_good: {name: 3}", r"name is a number, 3, where the notebook has text"),
        ("01_good: {name: 2026-01-01}", r"which no cell can hold"),
        ("01_good: [n]", r"must map parameters"),
        ("- 01_good", r"must map notebooks"),
        ("a: b: c", r"cannot be read"),
        ("!!python/object/apply:os.getcwd []", r"cannot be read"),
    ],
)
def test_a_wrong_profile_is_named_before_anything_runs(tmp_path, text, said):
    books = write_course(tmp_path / "notebooks", COURSE, smoke=text)
    with pytest.raises(KitError, match=said) as caught:
        run_course([], "smoke", tmp_path / "out", books)
    assert "smoke.yaml" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_profiles_are_read(tmp_path):
    text = "# a comment\n01_good: {n: 2.5, rate: 1, name: null}\n02_false: {}\n03_error:\n"
    books = write_course(tmp_path / "notebooks", COURSE, laptop=text)
    profile = read_profile("laptop", books)
    assert profile["01_good"] == {"n": 2.5, "rate": 1, "name": None}
    assert profile["02_false"] == profile["03_error"] == profile["04_hang"] == {}
    assert parameters_of(books / "01_good.ipynb") == {"n": 1, "rate": 2e-4, "name": "x"}
    with pytest.raises(KitError, match=r"no profile 'lptop'.*Did you mean 'laptop'"):
        read_profile("lptop", books)


def test_notebooks_are_found_by_number_or_name(tmp_path):
    books = write_course(tmp_path / "notebooks", COURSE)
    write_notebook(books / "Untitled.ipynb", [])
    assert [path.stem for path in find_notebooks(books)] == list(COURSE)
    assert [p.stem for p in find_notebooks(books, ["3", "01_good"])] == ["01_good", "03_error"]
    with pytest.raises(KitError, match="no notebook '12'"):
        find_notebooks(books, ["12"])
    with pytest.raises(KitError, match="no notebooks named"):
        find_notebooks(tmp_path)


def test_what_is_no_run_folder_is_refused(tmp_path):
    books = write_course(tmp_path / "notebooks", {"01_a": [("", "x = 1")]})
    (tmp_path / "file").write_text("")
    with pytest.raises(KitError, match="is a file"):
        run_course([], "smoke", tmp_path / "file", books)
    with pytest.raises(KitError, match="holds something"):
        run_course([], "smoke", tmp_path, books, fresh=True)
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(KitError, match="--fresh"):
        run_course([], "smoke", tmp_path, books)


def test_a_kernel_killed_for_memory_is_told_so(monkeypatch, tmp_path):
    watch = papermill_engine._Watch(papermill_engine.Progress("01_a", cell=3, peak_gb=5.2))
    watch.free_gb = 100.0
    monkeypatch.setattr(papermill_engine, "oom_kills", lambda: watch.oom_kills)
    assert "the kernel died; its peak was 5.2 GB" in papermill_engine._killed(watch).message
    watch.free_gb = 6.0  # close to the limit
    assert "cell [3]: killed, probably for memory" in papermill_engine._killed(watch).message
    watch.free_gb = 100.0
    monkeypatch.setattr(papermill_engine, "oom_kills", lambda: watch.oom_kills + 1)
    assert "killed, probably for memory" in papermill_engine._killed(watch).message


@pytest.mark.parametrize(
    ("line", "file", "text"),
    [
        ("0::/a/b", "a/b/memory.events", "low 0\noom 3\noom_kill 2\noom_group_kill 0\n"),
        ("0::/", "memory.events", "oom_kill 2\n"),
        ("0::/\n4:cpu,memory:/c", "memory/c/memory.oom_control", "under_oom 0\noom_kill 2\n"),
    ],
)
def test_oom_kills_are_counted_in_both_kinds_of_control_groups(tmp_path, line, file, text):
    (tmp_path / "own").write_text(line + "\n")
    assert papermill_engine.oom_kills(tmp_path, tmp_path / "own") == 0
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(text)
    assert papermill_engine.oom_kills(tmp_path, tmp_path / "own") == 2


def test_a_report_without_a_baseline_says_new(ran, tmp_path):
    run, _ = ran
    assert (
        "<td>28.4 nats a token</td><td>-</td><td>new</td>" in save_report(run, tmp_path).read_text()
    )


def test_a_later_report_does_not_read_the_earlier_lessons_again(ran, tmp_path, monkeypatch):
    run, out = ran
    (tmp_path / "executed").symlink_to(out / "executed")
    save_report(run, tmp_path)
    paths = []
    monkeypatch.setattr(
        report, "read_notebook", lambda path: paths.append(path) or v4.new_notebook()
    )
    assert "A &lt;dot&gt;" in save_report(run, tmp_path).read_text()
    assert "01_good" not in {path.stem for path in paths}  # the last may be too new to be known


@pytest.mark.parametrize("command", ["run", "compare", "baseline"])
def test_each_command_shows_an_example(command):
    shown = kit("course", command, "--help").stdout
    assert f"Example: qlora-kit course {command}" in " ".join(shown.split())

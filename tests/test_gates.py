"""Every notebook passes every gate; and every gate fails on the bug that it guards against."""

import ast
import inspect
import json
import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tests import gates
from tests.gates import house
from tests.gates.drift import FROM_PRETRAINED

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
OURS = [*sorted((ROOT / "qlora_kit").rglob("*.py")), ROOT / "tests/tools/bench.py"]
COLAB = "https://colab.research.google.com"
BADGE = f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({COLAB}/github/ann/kit/blob/main"

TITLE = f"""# Sampling

You will draw numbers and see what they do.

| | CPU | T4 | H200 |
|---|---:|---:|---:|
| minutes | 1.5 | 1.0 | 0.5 |
| memory (GB) | 1.2 | 1.4 | 1.4 |

**Before:** [the file](../README.md) · **After:** nothing

{BADGE}/notebooks/01_sample.ipynb)
"""
SETUP = """import importlib.util
if importlib.util.find_spec("qlora_kit") is None:
    %pip install "git+https://github.com/ann/kit"
from qlora_kit.machine import detect, versions
print(versions(), detect())"""
BODY = """import torch
torch.manual_seed(seed)
x = torch.randn(count)
total = sum(later(y) for y in x if (z := y) > 0)"""
NAMES = """class Net(torch.nn.Module):
    def forward(self, x):
        return self.scale * helper(x)
def typed(net: Net) -> Net:
    return net
def helper(x):
    return x
total += helper(1)
try:
    square = lambda a, b=count: [a * c for c in range(b)]
except ValueError as error:
    print(error)
with torch.no_grad():
    for i, (a, b) in enumerate([(1, 2)]):
        print(f"{a + b:.2f} {i}", square(a))"""
LIBRARY = """from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from trl import SFTConfig
four = BitsAndBytesConfig(load_in_4bit=True)
settings = {"max_length": 8}
settings["seed"] = seed
def train(path):
    from peft import LoraConfig
    AutoModelForCausalLM.from_pretrained(path, dtype="auto")
    return SFTConfig(output_dir=path, **settings), LoraConfig(r=8)"""


def good():
    """The smallest lesson that passes every gate."""
    md, py = new_markdown_cell, new_code_cell
    cells = [
        md(TITLE),
        md("## By the end you can\n\n- draw\n- count\n- tell"),
        py(SETUP),
        py("# smoke runs set these\ncount = -1\nseed: int = 3\nrates = [1e-4, None]",
           metadata={"tags": ["parameters"]}),
        py("count = abs(count)\ndef later(y):\n    return y * count"),
        md("## Draw\n\nThe step is `0.25`, half of $0.5$ (95 % interval); NF4 has 4 bits."),
        py(BODY),
        py(NAMES),
        py(LIBRARY),
        md("The authors find 2.3 percent ([arXiv](https://arxiv.org/abs/2305.14314)).",
           metadata={"tags": ["paper"]}),
        *[md("More."), py("%matplotlib inline\nprint(total)")] * 2,
        md("## Your turn\n\n### Exercise 01.1\n\nIt takes 0.5 GB. How many bytes?"),
        py("answer = ..."),
        py('from qlora_kit.course import check\ncheck("01.1", answer)'),
        md("### Exercise 01.2: more\n\nWrite it."),
        py("def peak_rss_gb():\n    ..."),
        py('check("01.2", peak_rss_gb)'),
        md("## What you measured"),
        py('from qlora_kit.course import claim\nclaim("more", total > 1, total=total)'),
        md("## What to read next\n\n[LoRA](https://arxiv.org/abs/2106.09685)"),
    ]  # fmt: skip
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = new_notebook(cells=[nbformat.from_dict(dict(cell)) for cell in cells])
    notebook.metadata["kernelspec"] = kernel
    for index, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{index}"
    return notebook


def source(index, old, new):
    """A change of one cell's text; the old text must be there."""

    def change(notebook):
        assert old in notebook.cells[index].source
        notebook.cells[index].source = notebook.cells[index].source.replace(old, new)

    return change


def body(text):
    return source(7, "total += helper(1)", f"total += helper(1)\n{text}")


def prose(text):
    return source(5, "half of", f"{text} of")


def cell(index, **changes):
    return lambda notebook: notebook.cells[index].update(nbformat.from_dict(changes))


def metadata(**changes):
    return lambda notebook: notebook.metadata.update(nbformat.from_dict(changes))


def drop(index):
    return lambda notebook: notebook.cells.pop(index)


BUGS = [
    ("title_and_card", drop(0), "one heading"),
    ("title_and_card", source(0, "do.\n", "do. And more.\n"), "one sentence"),
    ("title_and_card", source(0, "H200", "A100"), "columns"),
    ("title_and_card", source(0, "| 1.2 | 1.4 | 1.4 |", "| 1.2 | | |"), "'memory'"),
    ("title_and_card", source(0, "Before", "Prior"), "before"),
    ("title_and_card", source(0, "01_sample", "02_sample"), "01_sample.ipynb"),
    ("objectives", source(1, "By the end", "At the end"), "second markdown cell"),
    ("objectives", source(1, "\n- tell", ""), "not 2"),
    ("setup_cell", source(2, " is None", ""), "installs the kit"),
    ("setup_cell", source(2, 'if importlib.util.find_spec("qlora_kit")', "if count"), "installs"),
    ("setup_cell", source(2, "versions", "things"), "versions"),
    ("parameters", cell(3, metadata={}), "0 cells"),
    ("parameters", source(3, "-1", "2 ** 4"), "no literal"),
    ("parameters", source(3, "seed: int = 3", "print(3)"), "no literal"),
    ("parameters", cell(4, cell_type="markdown"), "derived"),
    ("size", source(4, "abs", "abs" + " " * 80), "more than 76"),
    ("size", lambda notebook: notebook.cells.extend([notebook.cells[5]] * 40), "20 to 60"),
    (
        "headings_in_order",
        source(5, "## Draw", "### Draw\n\n##### Deep"),
        "jumps from level 3 to 5",
    ),
    ("headings_in_order", source(5, "## Draw", "# Draw"), "second heading"),
    ("exercise_cells", source(17, "Exercise 01.2", "Exercise 02.2"), "not 01.2"),
    ("exercise_cells", source(16, "01.1", "01.2"), 'check("01.1", …)'),
    ("exercise_cells", cell(15, cell_type="markdown"), "stub"),
    ("exercise_cells", source(17, "Exercise", "Task"), "2 to 4"),
    ("solutions", source(17, "Exercise 01.2", "Exercise 01.3"), "01.3"),
    ("claims", source(21, "claim(", "print("), "no claim"),
    ("claims", source(20, "What you measured", "Results"), "no heading"),
    ("claims", source(21, "total=total)", 'total=1)\nclaim("more", True)'), "second claim"),
    ("reading_list", source(22, "What to read next", "References"), "last heading"),
    ("reading_list", source(22, "](https://", "](../"), "no paper"),
    ("stripped", cell(6, execution_count=1), "execution count"),
    ("stripped", cell(6, outputs=[{"output_type": "stream", "name": "stdout", "text": ""}]), ""),
    ("stripped", metadata(widgets={}), "widgets"),
    ("stripped", cell(6, metadata={"execution": {}}), "execution"),
    ("kernel_and_ids", metadata(kernelspec={"name": "ann", "display_name": "ann"}), "python3"),
    ("kernel_and_ids", cell(6, id="cell-5"), "cell-5"),
    ("valid", cell(6, outputs=[{"output_type": "no"}]), ""),
    ("names", drop(4), "'later' is not defined yet"),
    ("names", body("print(missing)"), "'missing'"),
    ("names", body("early = [helper(q) for q in later_list]\nlater_list = []"), "'later_list'"),
    ("names", body("del square"), "'square'"),
    ("names", body("def f():\n    return unheard"), "'unheard' is never defined"),
    ("names", body("def f():\n    return h\nf()\nh = 1"), "'h' is not defined yet"),
    ("names", body("print("), "line"),
    ("imports", body("import seaborn as sns"), "seaborn"),
    ("imports", body("def f():\n    from pytest import raises"), "pytest"),
    ("package_not_copied", body("def peak_rss_gb():\n    return 1"), "qlora_kit.machine"),
    ("nothing_asked", body("from huggingface_hub import login\nlogin()"), "waits"),
    ("seed_before_random", source(6, "torch.manual_seed(seed)", ""), "torch.randn"),
    ("seed_before_random", body("import numpy as np\nnp.random.rand()"), "np.random.rand"),
    ("seed_before_random", body("import numpy as np\nr = np.random.default_rng()"), "default_rng"),
    ("seed_before_random", body("import random\ntorch.manual_seed(1)\nrandom.random()"), "random"),
    ("seed_before_random", body("print(torch.empty(2).normal_())"), "normal_"),
    ("seed_before_random", body("def f():\n    return torch.rand(2)\nf()"), "f(…)"),
    ("seed_before_random", body("h = torch.nn.Linear(2, 2)"), "Linear"),
    ("seed_before_random", body("h = helper(do_sample=True)"), "helper"),
    ("drift", source(8, "max_length", "max_seq_length"), "'max_seq_length'"),
    ("drift", source(8, 'settings["seed"]', 'settings["sead"]'), "'sead'"),
    ("drift", source(8, "dtype=", "torch_type="), "'torch_type'"),
    ("drift", source(8, "load_in_4bit", "load_in_4bits"), "'load_in_4bits'"),
    ("drift", source(8, "import SFTConfig", "import SFTConfig, SftOld"), "no trl.SftOld"),
    ("drift", body("import bitsandbytes as b\nb.functional.quantize_4bit(x, q=1)"), "'q'"),
    ("links", prose("[that](02_gone.ipynb#part)"), "02_gone.ipynb"),
    ("links", prose("[that](../../../elsewhere.md)"), "elsewhere.md"),
    ("repository", prose("[that](https://github.com/ann/kit/issues)"), "ann/kit"),
    ("repository", source(2, "ann/kit", "bob/qlora-kit"), "bob/qlora-kit"),
    ("repository", prose(f"[![b](c)]({COLAB}/github/bob/kit/blob/main/a.ipynb)"), "ann/kit, bob"),
    ("numbers_in_prose", prose("an error 0.31"), "'0.31'"),
    ("numbers_in_prose", prose("12% more"), "'12%'"),
    ("numbers_in_prose", prose("4 times smaller"), "'4 times'"),
    ("numbers_in_prose", prose("three times as fast"), "'three times as'"),
    ("numbers_in_prose", prose("it takes 11 GB and 20-minute"), "'20-minute'"),
    ("numbers_in_prose", source(9, "](https://arxiv.org/abs/2305.14314)", "]"), "links to none"),
    ("alt_text", prose("![](../README.md)"), "alternative text"),
    ("alt_text", prose('<img src="../README.md" alt="">'), "alternative text"),
]


@pytest.fixture
def path(tmp_path):
    """Where the built lesson lies: a repository with a README and the lesson's solutions."""
    folder = tmp_path / "notebooks"
    (folder / "solutions").mkdir(parents=True)
    (folder / "solutions/01_sample.py").write_text("# Exercise 01.1, and 01.2\nanswer = 2\n")
    (tmp_path / "README.md").write_text("")
    return folder / "01_sample.ipynb"


def test_there_is_a_notebook():
    assert NOTEBOOKS


@pytest.mark.parametrize("gate", gates.GATES, ids=lambda gate: gate.__name__)
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_every_notebook_passes_every_gate(file, gate):
    problems = gate(gates.read(file), file)
    assert not problems, "\n".join(["", *problems])


@pytest.mark.parametrize("file", OURS, ids=lambda file: file.stem)
def test_our_code_passes_only_arguments_that_exist(file):
    problems = gates.drift_in_file(file)
    assert not problems, "\n".join(["", *problems])


@pytest.mark.parametrize("gate", gates.GATES, ids=lambda gate: gate.__name__)
def test_a_good_lesson_passes(gate, path):
    assert gate(good(), path) == []


@pytest.mark.parametrize(("name", "bug", "said"), BUGS)
def test_a_gate_finds_its_bug(name, bug, said, path):
    notebook = good()
    bug(notebook)
    problems = getattr(gates, name)(notebook, path)
    assert problems
    assert said in " ".join(problems)
    assert all(problem.startswith(path.name) for problem in problems)


def test_every_gate_has_a_bug_and_a_reason():
    assert {name for name, _, _ in BUGS} == {gate.__name__ for gate in gates.GATES}
    assert all(inspect.getdoc(gate) for gate in gates.GATES)


def test_a_renamed_argument_is_found_at_its_cell(path, monkeypatch):
    import trl

    class SFTConfig:
        def __init__(self, output_dir, maximum_length=1, seed=0, **kwargs): ...

    monkeypatch.setattr(trl, "SFTConfig", SFTConfig)
    [problem] = gates.drift(good(), path)
    assert problem == "01_sample.ipynb, cell 9: trl.SFTConfig takes no argument 'max_length'"


def test_reading_repairs_nothing(path):
    notebook = good()
    notebook.cells[6]["id"] = "cell-5"
    path.write_text(json.dumps(notebook))
    assert gates.kernel_and_ids(gates.read(path), path)


def test_solutions_must_be_there(path):
    (path.parent / "solutions/01_sample.py").unlink()
    assert gates.solutions(good(), path) == ["01_sample.ipynb: there is no solutions/01_sample.py"]


def test_notebooks_name_one_repository(path):
    other = f'"[![b](c)]({COLAB}/github/bob/kit/blob/main/notebooks/02_b.ipynb)"'
    path.with_name("02_b.ipynb").write_text(other)
    assert gates.repository(good(), path) == ["01_sample.ipynb: badges name ann/kit, bob/kit"]


def test_keywords_that_no_signature_shows_are_in_the_source():
    from transformers import modeling_utils, tokenization_utils_base

    text = inspect.getsource(modeling_utils) + inspect.getsource(tokenization_utils_base)
    for word in FROM_PRETRAINED:
        assert re.search(rf'(?:pop|get)\("{word}"|^ +{word}: ', text, re.M), word


@pytest.mark.parametrize(
    "line",
    [
        "layer.forward = other",
        "layer.inner.forward, x = other, 1",
        "layer.forward: object = other",
        'setattr(layer, "forward", other)',
        'object.__setattr__(layer, "forward", other)',
        'layer.__dict__["forward"] = other',
        'vars(layer)["forward"] = other',
        "layer.__dict__.update(forward=other)",
        "del layer.forward",
    ],
)
def test_only_the_engine_may_change_a_forward(tmp_path, line):
    for room in ("engine", "export"):
        (tmp_path / "kit" / room).mkdir(parents=True)
        (tmp_path / "kit" / room / "file.py").write_text(f"def swap(layer, other):\n    {line}\n")
    [problem] = house.forward_problems(tmp_path / "kit")
    assert problem.startswith("kit/export/file.py:2: assigns a module's forward")


@pytest.mark.parametrize(
    "line",
    ["y = layer.forward(x)", "forward = layer.forward", "class L:\n    def forward(self): ..."],
)
def test_a_forward_may_be_called_read_and_defined(tmp_path, line):
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "file.py").write_text(line)
    assert house.forward_problems(tmp_path) == []


@pytest.mark.parametrize(
    "line",
    [
        "from qlora_kit.data.rows import rows_of",
        "from qlora_kit.data import rows",
        "import qlora_kit.data.rows",
        "from qlora_kit.course import lessons",
        "code = 'from qlora_kit.data.rows import rows_of'",
    ],
)
def test_a_notebook_enters_a_room_by_its_face(tmp_path, line):
    assert house.past_a_face(ast.parse(line))
    book = good()
    book.cells[3].source = line
    nbformat.write(book, tmp_path / "01_sample.ipynb")
    [problem] = house.notebook_problems(tmp_path)
    assert problem.startswith("01_sample.ipynb, cell 4: imports from qlora_kit.")


def test_the_house_stands():
    assert house.forward_problems() == []
    assert house.notebook_problems() == []
    assert house.past_a_face(ast.parse("from qlora_kit.data import read")) == []

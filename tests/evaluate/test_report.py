import io
import json
import re

import pytest
from matplotlib.image import imread
from rich.console import Console

from qlora_kit.evaluate import Scoreboard, report
from qlora_kit.evaluate import report as report_file
from qlora_kit.plots import figures
from qlora_kit.stats import Interval, McNemar


@pytest.fixture
def board():
    names = ("token_f1", "stop_rate", "nll")
    examples = tuple(
        {"question": f"Q{n} <b>?", "reference": "R", "base": "[red]B[/red]", "tuned": "T & co"}
        for n in range(10)
    )
    return Scoreboard(
        n=10,
        base=dict.fromkeys(names, 0.2),
        tuned=dict.fromkeys(names, 0.7),
        difference={
            "token_f1": Interval(0.5, 0.4, 0.6, "paired bootstrap"),
            "stop_rate": Interval(0.5, 0.4, 0.6, "Bonett-Price"),
            "nll": Interval(0.5, 0.4, 0.6, "paired bootstrap"),
        },
        examples=examples,
        mcnemar={"stop_rate": McNemar(0, 5, 0.0625)},
    )


def test_the_report_is_self_contained_and_escaped(board, tmp_path):
    metrics = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
    figures.loss_curve(metrics, tmp_path / "loss.png")
    page = report.save_report(board, tmp_path, "A <title>").read_text()
    assert "Q0 &lt;b&gt;?" in page
    assert "T &amp; co" in page
    assert page.count("data:image/png;base64,") == 2
    assert not re.search(r"""(src|href)=['"]?(http|//|[\w/]+\.png)""", page)
    assert len(re.findall(r'<img [^>]*alt="[^"]+"', page)) == 2
    saved = json.loads((tmp_path / "scoreboard.json").read_text())
    assert saved["difference"]["token_f1"] == {
        "mean": 0.5,
        "ci95": [0.4, 0.6],
        "method": "paired bootstrap",
    }


def test_each_interval_says_what_it_is_by(board, tmp_path):
    line = (
        "Intervals, 95 %: paired bootstrap (token F1, held-out NLL (nats a token)); "
        "Bonett-Price (stop rate)."
    )
    assert line in report.save_report(board, tmp_path, "t").read_text()
    out = io.StringIO()
    report.print_scoreboard(board, Console(file=out, width=200))
    assert line in out.getvalue()


def test_the_terminal_shows_all_four_texts_side_by_side(board):
    out = io.StringIO()
    console = Console(file=out, width=120)
    report.print_examples(board, console)
    report.print_scoreboard(board, console)
    text = out.getvalue()
    for shown in (
        "Q0 <b>?",
        "Q8 <b>?",
        "[red]B[/red]",
        "+0.500 [+0.400, +0.600]",
        "token F1",
        "stop rate 0 against 5, p = 0.06",
    ):
        assert shown in text
    assert len(report._spread(board.examples, 5)) == 5
    assert len(report._spread(board.examples[:2], 5)) == 2


def test_figures_are_drawn(board, tmp_path):
    report_file.scoreboard_figure(board, tmp_path / "a.png")
    pixels = imread(tmp_path / "a.png")
    assert pixels.shape[1] > 400
    figure = figures.intervals(
        {"a": Interval(0.5, 0.4, 0.6), "b": Interval(-0.1, -0.3, 0.1)}, "t", "x"
    )
    assert figure.alt == "t. x: a +0.500 [+0.400, +0.600]; b -0.100 [-0.300, +0.100]."
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["b", "a"]
    figure = figures.points({"a": (270, 2e-6), "b": (92, 0.15)}, "t", "MB", "KL", logy=True)
    assert figure.alt == "t. MB and KL: a 270 and 2e-06; b 92 and 0.15."
    assert figure.axes[0].get_yscale() == "log"
    assert pixels[..., :3].min() < 0.5  # there is ink

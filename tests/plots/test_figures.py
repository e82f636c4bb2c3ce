import pytest
from markupsafe import Markup

from qlora_kit import KitError, plots
from qlora_kit.plots import figures


def test_the_moving_mean_looks_back_only():
    assert figures.moving_mean([4, 2, 0, 6], 2) == [4, 3, 1, 3]


def test_a_run_without_a_step_has_no_loss_to_draw(tmp_path):
    with pytest.raises(KitError, match="no step yet"):
        plots.loss_curve([], tmp_path / "loss.png")
    assert not (tmp_path / "loss.png").exists()
    metrics = [{"step": 1, "loss": 2.0}]
    assert plots.loss_curve(metrics, tmp_path / "loss.png").alt.endswith("from 2.00 to 2.00.")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_each_of_five_curves_is_drawn_and_looks_like_no_other():
    lines = {f"line {n}": ([1, 2], [n, n + 1]) for n in range(5)}
    drawn = plots.curves(lines, "Five", "step", "nats").axes[0].lines
    assert [line.get_label() for line in drawn] == list(lines)
    looks = {(line.get_linestyle(), line.get_marker()) for line in drawn}
    assert len(looks) == 5


def test_a_stack_of_many_parts_is_drawn_in_full():
    parts = {f"part {n}": float(n + 1) for n in range(10)}
    figure = plots.stacked({"one": parts, "two": parts}, "t", "GB")
    drawn = figure.axes[0].patches
    assert len(drawn) == 20
    assert max(bar.get_x() + bar.get_width() for bar in drawn) == sum(parts.values())


def test_a_page_escapes_text_and_lets_markup_through():
    picture = plots.picture("AAAA", 'a "quoted" <alt>')
    rows = [("<b>", Markup("<i>1</i>")), ("x & y", "2")]
    body = "<p>{{ text }}</p>{{ html_table(head, rows, numbers=True) }}{{ picture }}"
    page = plots.html_page(
        "A <title>", body, text="<script>", head=("a", "b"), rows=rows, picture=picture
    )
    assert page.count("A &lt;title&gt;") == 2
    assert "<p>&lt;script&gt;</p>" in page
    assert "<td>&lt;b&gt;</td><td class=n><i>1</i></td>" in page
    assert "<td>x &amp; y</td><td class=n>2</td>" in page
    assert 'alt="a &#34;quoted&#34; &lt;alt&gt;"' in page

"""Figures in one style: labeled axes with units, one message each, readable in grayscale."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from .. import KitError
from ..machine import write_bytes
from .html import picture
from .style import (
    BASE,
    FILLS,
    HATCHES,
    LINE_COLORS,
    LINE_DASHES,
    LINE_MARKS,
    STYLE,
    TUNED,
)

if TYPE_CHECKING:
    from ..stats import Interval


def new_axes(width: float = 6.4, height: float = 3.6, columns: int = 1) -> tuple[Any, Any]:
    """An empty figure in the course's style, with its axes.

    Args:
        width, height: in inches.
        columns: of axes side by side.

    Returns:
        (figure, axes); with several columns an array of axes.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        return figure, figure.subplots(ncols=columns)


def _named_rows(
    names: Iterable[str], title: str, xlabel: str, height: float, width: float = 6.4
) -> tuple[Any, Any, dict[str, int]]:
    """Empty axes with a row for each name, the first on top; and where on them each row is."""
    upwards = list(names)[::-1]
    figure, axes = new_axes(width, height)
    axes.set_yticks(range(len(upwards)), upwards)
    axes.set(xlabel=xlabel, title=title)
    axes.grid(axis="y", visible=False)
    return figure, axes, {name: row for row, name in enumerate(upwards)}


def png(figure: Any) -> bytes:
    """A figure as a PNG picture.

    Args:
        figure: from `new_axes`.
    """
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context(STYLE):
        figure.savefig(buffer, format="png", dpi=STYLE["figure.dpi"])
    return buffer.getvalue()


def bundle(figure: Any) -> tuple[dict[str, str], dict[str, Any]]:
    """What a notebook shows of a figure: its output's data and metadata.

    JupyterLab and Colab give a bare PNG no alternative text, so HTML stands beside it; the PNG is
    for programs that read the notebook.

    Args:
        figure: from `finish`.
    """
    pixels = base64.b64encode(png(figure)).decode()
    data = {
        "text/html": str(picture(pixels, figure.alt)),
        "image/png": pixels,
        "text/plain": figure.alt,
    }
    # As our report and as nbconvert read it.
    return data, {"image/png": {"alt": figure.alt, "alttext": figure.alt}}


def finish(figure: Any, path: Path | None = None, alt: str = "") -> Any:
    """Save a figure, and let notebooks show it with a text for those who cannot see it.

    Args:
        figure: from `new_axes`.
        path: where to save it as PNG.
        alt: what it shows, in words.
    """
    figure.alt = alt
    figure._repr_mimebundle_ = lambda **_: bundle(figure)
    if path is not None:
        write_bytes(path, png(figure))
    return figure


def moving_mean(values: Sequence[float], window: int) -> list[float]:
    """Each value's mean with up to window - 1 values before it.

    Args:
        values: in order.
        window: how many to average.
    """
    return [fmean(values[max(0, i - window + 1) : i + 1]) for i in range(len(values))]


def loss_curve(metrics: Sequence[dict[str, Any]], path: Path | None = None) -> Any:
    """The training loss over the steps, raw and smoothed.

    Args:
        metrics: a run's, see `runs.Run.metrics`.
        path: where to save it as PNG.

    Returns:
        The matplotlib figure.

    Raises:
        KitError: there are none.
    """
    if not metrics:
        raise KitError("The run has made no step yet, so there is no loss to draw.")
    steps = [line["step"] for line in metrics]
    losses = [line["loss"] for line in metrics]
    window = max(1, len(losses) // 15)
    smooth = moving_mean(losses, window)
    figure, axes = new_axes()
    axes.plot(steps, losses, color=BASE, linewidth=0.8, label="each step")
    axes.plot(steps, smooth, color=TUNED, linewidth=2, label=f"mean of {window} steps")
    axes.set(xlabel="optimizer step", ylabel="loss on the answers (nats a token)")
    axes.set(title="Training loss", ylim=(0, None))
    axes.legend(frameon=False)
    alt = f"Training loss over {len(steps)} steps, from {losses[0]:.2f} to {losses[-1]:.2f}."
    return finish(figure, path, alt)


def number_lines(levels: Mapping[str, Sequence[float]], title: str) -> Any:
    """Where the values of several data types lie between -1 and 1.

    Args:
        levels: values by data type, scaled to [-1, 1].
        title: the figure's message.
    """
    xlabel = "value, as a share of the block's largest"
    figure, axes, rows = _named_rows(levels, title, xlabel, 0.5 * len(levels) + 1.3)
    marks = {"color": TUNED, "markersize": 18, "markeredgewidth": 2}
    for name, values in levels.items():
        axes.plot(list(values), [rows[name]] * len(values), "|", **marks)
    axes.set(ylim=(-0.6, len(levels) - 0.4))
    counts = "; ".join(f"{name}: {len(set(map(float, v)))} values" for name, v in levels.items())
    return finish(figure, alt=f"{title}. {counts}.")


def density(
    values: Any, title: str, xlabel: str, levels: Sequence[float] = (), curve: bool = False
) -> Any:
    """How values are spread, with data type levels below and a normal curve over them.

    Args:
        values: a tensor of any shape.
        title: the figure's message.
        xlabel: what the values are, with their unit.
        levels: marked on the axis.
        curve: draw the normal density of the same mean and spread.
    """
    import numpy as np

    flat = values.detach().flatten().float().numpy()
    figure, axes = new_axes()
    low, high = np.quantile(flat, [0.0002, 0.9998])  # a few far values would squeeze the rest
    axes.hist(flat, bins=121, range=(low, high), density=True, color=BASE)
    if curve:
        x = np.linspace(low, high, 300)
        z = (x - flat.mean()) / flat.std()
        normal = np.exp(-z * z / 2) / (flat.std() * np.sqrt(2 * np.pi))
        axes.plot(x, normal, color=TUNED, linewidth=2, label="normal curve, same mean and spread")
        axes.legend(frameon=False)
    for level in levels:
        axes.axvline(level, color=TUNED, linewidth=0.8, linestyle="--")
    axes.set(xlabel=xlabel, ylabel="density", title=title)
    alt = f"{title}. Histogram of {flat.size:,} values from {flat.min():.3g} to {flat.max():.3g}."
    return finish(figure, alt=alt)


def bars(values: Mapping[str, float], title: str, xlabel: str, digits: int = 2) -> Any:
    """A number for each of a few things, written at the bar's end.

    Args:
        values: by name.
        title: the figure's message.
        xlabel: what is measured, with its unit.
        digits: after the point.
    """
    figure, axes, rows = _named_rows(values, title, xlabel, 0.42 * len(values) + 1.2)
    texts = {name: f"{value:,.{digits}f}" for name, value in values.items()}
    for name, row in rows.items():
        axes.barh(row, values[name], color=TUNED, height=0.6)
        axes.text(values[name], row, f" {texts[name]}", va="center")
    axes.margins(x=0.16)
    listed = "; ".join(f"{name} {text}" for name, text in texts.items())
    return finish(figure, alt=f"{title}. {xlabel}: {listed}.")


def intervals(named: Mapping[str, "Interval"], title: str, xlabel: str) -> Any:
    """Differences with their 95 % intervals, against a line at zero.

    Args:
        named: from `stats.paired_interval`, by name.
        title: the figure's message.
        xlabel: the difference of what, with its unit.
    """
    figure, axes, rows = _named_rows(named, title, xlabel, 0.42 * len(named) + 1.3)
    above = {"ha": "center", "textcoords": "offset points", "fontsize": 9}
    for name, row in rows.items():
        mean = named[name].mean
        axes.plot([named[name].low, named[name].high], [row, row], color=TUNED, linewidth=2.5)
        axes.plot(mean, row, "o", color=TUNED, markersize=7)
        axes.annotate(f"{mean:+.3f}", (mean, row), (0, 7), **above)
    axes.axvline(0, color=BASE, linestyle="--", linewidth=1)
    axes.set(ylim=(-0.6, len(named) - 0.3))
    axes.locator_params(axis="x", nbins=6)  # long names leave the numbers little room
    listed = "; ".join(f"{name} {interval}" for name, interval in named.items())
    return finish(figure, alt=f"{title}. {xlabel}: {listed}.")


def curves(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    title: str,
    xlabel: str,
    ylabel: str,
    logx: bool = False,
    logy: bool = False,
) -> Any:
    """One line for each name; dash, mark and color tell twenty apart, dash and mark also in gray.

    Args:
        lines: (x, y) by name.
        title: the figure's message.
        xlabel, ylabel: with units.
        logx, logy: a logarithmic axis, base 2.
    """
    figure, axes = new_axes()
    looks = zip(cycle(LINE_DASHES), cycle(LINE_MARKS), cycle(LINE_COLORS), strict=False)
    for (name, (x, y)), (dash, mark, color) in zip(lines.items(), looks, strict=False):
        axes.plot(x, y, dash, marker=mark, color=color, label=name)
    if logx:
        axes.set_xscale("log", base=2)
        ticks = sorted({float(value) for x, _ in lines.values() for value in x})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    if logy:
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    if len(lines) > 1:
        axes.legend(frameon=False)
    ends = {name: f"{float(y[0]):.3g} to {float(y[-1]):.3g}" for name, (_, y) in lines.items()}
    listed = "; ".join(f"{name}: {text}" for name, text in ends.items())
    return finish(figure, alt=f"{title}. {ylabel} against {xlabel}: {listed}.")


def points(
    named: Mapping[str, tuple[float, float]],
    title: str,
    xlabel: str,
    ylabel: str,
    logy: bool = False,
) -> Any:
    """One named point for each of a few things, to weigh one number against another.

    Args:
        named: (x, y) by name.
        title: the figure's message.
        xlabel, ylabel: with units.
        logy: a logarithmic axis, base 10.
    """
    figure, axes = new_axes()
    for name, (x, y) in named.items():
        axes.plot(x, y, "o", color=TUNED, markersize=7)
        axes.annotate(name, (x, y), (8, 4), textcoords="offset points")
    if logy:
        axes.set_yscale("log")
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axes.margins(x=0.16, y=0.12)
    listed = "; ".join(f"{name} {x:,.3g} and {y:.3g}" for name, (x, y) in named.items())
    return finish(figure, alt=f"{title}. {xlabel} and {ylabel}: {listed}.")


def matrices(named: Mapping[str, Any], title: str) -> Any:
    """Matrices side by side as gray pictures on one scale.

    Args:
        named: (rows, columns) tensors by name.
        title: the figure's message.
    """
    figure, axes = new_axes(width=2.6 * len(named), height=2.9, columns=len(named))
    limit = max(float(matrix.abs().max()) for matrix in named.values())
    for axis, (name, matrix) in zip(axes, named.items(), strict=True):
        axis.imshow(matrix.detach().float(), cmap="gray", vmin=-limit, vmax=limit)
        axis.set(title=name, xticks=[], yticks=[])
        axis.grid(visible=False)
    figure.suptitle(title)
    return finish(figure, alt=f"{title}. Gray pictures of: {', '.join(named)}.")


def stacked(rows: Mapping[str, Mapping[str, float]], title: str, xlabel: str) -> Any:
    """Bars made of parts; hatches tell the parts apart without color.

    Args:
        rows: for each bar its parts by name, in order, all rows with the same parts.
        title: the figure's message.
        xlabel: what is added up, with its unit.
    """
    height = 0.5 * len(rows) + 2.0
    figure, axes, places = _named_rows(rows, title, xlabel, height, width=7.2)
    totals = dict.fromkeys(rows, 0.0)
    looks = zip(next(iter(rows.values())), cycle(FILLS), cycle(HATCHES), strict=False)
    for part, color, hatch in looks:
        widths = [rows[name][part] for name in places]
        left = [totals[name] for name in places]
        look = {"color": color, "hatch": hatch, "edgecolor": "white", "height": 0.62}
        axes.barh(list(places.values()), widths, left=left, label=part, **look)
        totals = {name: total + rows[name][part] for name, total in totals.items()}
    for name, row in places.items():
        axes.text(totals[name], row, f" {totals[name]:,.1f}", va="center")
    axes.margins(x=0.12)
    figure.legend(loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    parts = {
        name: ", ".join(f"{part} {size:.3g}" for part, size in sizes.items())
        for name, sizes in rows.items()
    }
    listed = "; ".join(f"{name} {totals[name]:,.1f} ({parts[name]})" for name in rows)
    return finish(figure, alt=f"{title}. {xlabel}, in all and by part: {listed}.")

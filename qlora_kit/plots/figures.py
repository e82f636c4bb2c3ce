"""Figures in one style: labeled axes with units, one message each, readable in grayscale."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import KitError
from .style import STYLE, bundle, png

if TYPE_CHECKING:
    from ..stats import Interval

BASE, TUNED = "#9a9a9a", "#1f4e79"  # light and dark, also without color


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
        path.write_bytes(png(figure))
    return figure


def moving_mean(values: Sequence[float], window: int) -> list[float]:
    """Each value's mean with up to window - 1 values before it.

    Args:
        values: in order.
        window: how many to average.
    """
    return [
        sum(values[max(0, i - window + 1) : i + 1]) / (i + 1 - max(0, i - window + 1))
        for i in range(len(values))
    ]


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
    steps, losses = [line["step"] for line in metrics], [line["loss"] for line in metrics]
    window = max(1, len(losses) // 15)
    figure, axes = new_axes()
    axes.plot(steps, losses, color=BASE, linewidth=0.8, label="each step")
    axes.plot(steps, moving_mean(losses, window), color=TUNED, linewidth=2,
              label=f"mean of {window} steps")  # fmt: skip
    axes.set(xlabel="optimizer step", ylabel="loss on the answers (nats a token)",
             title="Training loss", ylim=(0, None))  # fmt: skip
    axes.legend(frameon=False)
    alt = f"Training loss over {len(steps)} steps, from {losses[0]:.2f} to {losses[-1]:.2f}."
    return finish(figure, path, alt)


def number_lines(levels: Mapping[str, Sequence[float]], title: str) -> Any:
    """Where the values of several data types lie between -1 and 1.

    Args:
        levels: values by data type, scaled to [-1, 1].
        title: the figure's message.
    """
    figure, axes = new_axes(height=0.5 * len(levels) + 1.3)
    for index, values in enumerate(list(levels.values())[::-1]):
        axes.plot(list(values), [index] * len(values), "|", color=TUNED, markersize=18,
                  markeredgewidth=2)  # fmt: skip
    axes.set_yticks(range(len(levels)), list(levels)[::-1])
    axes.set(xlabel="value, as a share of the block's largest", title=title,
             ylim=(-0.6, len(levels) - 0.4))  # fmt: skip
    axes.grid(axis="y", visible=False)
    said = "; ".join(f"{name}: {len(set(map(float, v)))} values" for name, v in levels.items())
    return finish(figure, alt=f"{title}. {said}.")


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
        axes.plot(x, np.exp(-z * z / 2) / (flat.std() * np.sqrt(2 * np.pi)), color=TUNED,
                  linewidth=2, label="normal curve, same mean and spread")  # fmt: skip
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
    figure, axes = new_axes(height=0.42 * len(values) + 1.2)
    names = list(values)[::-1]
    axes.barh(names, [values[name] for name in names], color=TUNED, height=0.6)
    for index, name in enumerate(names):
        axes.text(values[name], index, f" {values[name]:,.{digits}f}", va="center")
    axes.set(xlabel=xlabel, title=title)
    axes.margins(x=0.16)
    axes.grid(axis="y", visible=False)
    said = "; ".join(f"{name} {value:,.{digits}f}" for name, value in values.items())
    return finish(figure, alt=f"{title}. {xlabel}: {said}.")


def intervals(named: Mapping[str, "Interval"], title: str, xlabel: str) -> Any:
    """Differences with their 95 % intervals, against a line at zero.

    Args:
        named: from `stats.paired_bootstrap`, by name.
        title: the figure's message.
        xlabel: the difference of what, with its unit.
    """
    figure, axes = new_axes(height=0.42 * len(named) + 1.3)
    for row, found in enumerate(reversed(list(named.values()))):
        axes.plot([found.low, found.high], [row, row], color=TUNED, linewidth=2.5)
        axes.plot(found.mean, row, "o", color=TUNED, markersize=7)
        axes.annotate(f"{found.mean:+.3f}", (found.mean, row), (0, 7), ha="center",
                      textcoords="offset points", fontsize=9)  # fmt: skip
    axes.axvline(0, color=BASE, linestyle="--", linewidth=1)
    axes.set(xlabel=xlabel, title=title, ylim=(-0.6, len(named) - 0.3))
    axes.set_yticks(range(len(named)), list(named)[::-1])
    axes.locator_params(axis="x", nbins=6)  # long names leave the numbers little room
    axes.grid(axis="y", visible=False)
    said = "; ".join(f"{name} {found}" for name, found in named.items())
    return finish(figure, alt=f"{title}. {xlabel}: {said}.")


def curves(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    title: str, xlabel: str, ylabel: str, logx: bool = False, logy: bool = False,
) -> Any:  # fmt: skip
    """One line for each name; line style and mark tell them apart, also without color.

    Args:
        lines: (x, y) by name.
        title: the figure's message.
        xlabel, ylabel: with units.
        logx, logy: a logarithmic axis, base 2.
    """
    figure, axes = new_axes()
    styles = [("-", "o", TUNED), ("--", "s", BASE), (":", "^", "#b5651d"), ("-.", "D", "#3b3b3b")]
    for (name, (x, y)), (dash, mark, color) in zip(lines.items(), styles, strict=False):
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
    said = "; ".join(f"{n}: {float(y[0]):.3g} to {float(y[-1]):.3g}" for n, (_, y) in lines.items())
    return finish(figure, alt=f"{title}. {ylabel} against {xlabel}: {said}.")


def points(
    named: Mapping[str, tuple[float, float]], title: str, xlabel: str, ylabel: str,
    logy: bool = False,
) -> Any:  # fmt: skip
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
    said = "; ".join(f"{name} {x:,.3g} and {y:.3g}" for name, (x, y) in named.items())
    return finish(figure, alt=f"{title}. {xlabel} and {ylabel}: {said}.")


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
    figure, axes = new_axes(width=7.2, height=0.5 * len(rows) + 2.0)
    parts = list(next(iter(rows.values())))
    fills = ["#1f4e79", "#d9d9d9", "#6f93b5", "#8c8c8c", "#b5651d", "#f0d9b5", "#404040", "#c6d9ec"]
    hatches = ["", "//", "..", "", "xx", "\\\\", "++"]
    names = list(rows)[::-1]
    left = [0.0] * len(names)
    for index, part in enumerate(parts):
        widths = [rows[name][part] for name in names]
        axes.barh(names, widths, left=left, color=fills[index % 8], hatch=hatches[index % 7],
                  edgecolor="white", height=0.62, label=part)  # fmt: skip
        left = [a + b for a, b in zip(left, widths, strict=True)]
    for index, total in enumerate(left):
        axes.text(total, index, f" {total:,.1f}", va="center")
    axes.set(xlabel=xlabel, title=title)
    axes.margins(x=0.12)
    axes.grid(axis="y", visible=False)
    figure.legend(loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    said = "; ".join(
        f"{name} {sum(sizes.values()):,.1f} ("
        + ", ".join(f"{part} {size:.3g}" for part, size in sizes.items()) + ")"
        for name, sizes in rows.items()
    )  # fmt: skip
    return finish(figure, alt=f"{title}. {xlabel}, in all and by part: {said}.")

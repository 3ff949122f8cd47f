"""What all figures share: colours, axes, keys, heat maps and messages.

Colours mean the same everywhere: layers run through viridis, steps through plasma, universal
neurons are vermillion and control sets blue (Okabe and Ito), all layers together black.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import ceil
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, Locator, LogLocator, NullLocator, PercentFormatter

from universal_neurons.store.columns.declare import ALL_LAYERS

BLACK = "#222222"
GREY = "#999999"
VERMILLION = "#D55E00"
BLUE = "#0072B2"
GREEN = "#009E73"
OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442")

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same figure on every machine
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "svg.hashsalt": "universal-neurons",
}

# Up to this many layers or steps a legend names each; beyond, a colour bar does.
MAX_NAMED = 6


@contextmanager
def styled() -> Iterator[None]:
    """Draw and write within this, for the figures' common look."""
    with mpl.rc_context(STYLE):
        yield


def layer_colors(n: int) -> np.ndarray:
    """Colours of `n` layers, first to last."""
    return mpl.colormaps["viridis"](np.linspace(0.1, 0.88, n))


def step_colors(n: int) -> np.ndarray:
    """Colours of `n` steps, first to last."""
    return mpl.colormaps["plasma"](np.linspace(0.0, 0.86, n)[::-1])


def spread_out(values: Sequence[int], n: int) -> list[int]:
    """At most `n` of `values`, evenly spaced, with the first and the last."""
    if len(values) <= n:
        return list(values)
    return [values[i] for i in np.linspace(0, len(values) - 1, n).round().astype(int)]


def step_label(step: float) -> str:
    """A step as short as an axis needs it."""
    return f"{step / 1000:g}k" if step >= 10_000 else f"{step:,.0f}"


class StepLocator(Locator):
    """Ticks at as many of the steps as have room for their labels; the last always has one."""

    def __init__(self, ax: Axes, steps: Sequence[int]) -> None:
        self.ax = ax
        self.steps = list(steps)

    def __call__(self) -> list[float]:
        # At drawing time: only then is the width known that the layout leaves to the axes.
        points = self.ax.transData.transform([(step, 0) for step in self.steps])
        inches = points[:, 0] / self.ax.figure.get_figure(root=True).dpi
        kept = [len(self.steps) - 1]
        for i in reversed(range(len(self.steps) - 1)):
            if inches[kept[-1]] - inches[i] > 0.45:
                kept.append(i)
        return [self.steps[i] for i in reversed(kept)]


def step_axis(ax: Axes, steps: Sequence[int], label: str | None = "step") -> None:
    """Ticks at the steps themselves, on a logarithmic axis where they span more than a decade."""
    if label:
        ax.set_xlabel(label)
    positive = [s for s in steps if s > 0]
    if positive and positive[-1] > 10 * positive[0]:
        if positive[0] == steps[0]:
            ax.set_xscale("log")
        else:
            ax.set_xscale("symlog", linthresh=positive[0], linscale=0.3)
    scale = ax.xaxis.get_transform()
    ends = scale.transform(np.array([steps[0], steps[-1]], dtype=float))
    margin = 0.04 * (ends[1] - ends[0]) or 0.5
    left, right = scale.inverted().transform(ends + np.array([-margin, margin]))
    ax.set_xlim(left, right)
    ax.xaxis.set_major_locator(StepLocator(ax, steps))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda step, _: step_label(step)))
    ax.xaxis.set_minor_locator(NullLocator())


def percent_axis(axes: Sequence[Axes]) -> None:
    """Shares on a linear axis from 0, common to `axes`, with some height where all are 0."""
    highest = max(0.01, *(1.08 * ax.dataLim.y1 for ax in axes))
    for ax in axes:
        ax.set_ylim(0, highest)
        # Labels say where their ticks are: at 2.5 % a rounded one would read 2 %.
        ax.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))


def log_percent_axis(ax: Axes) -> None:
    """Shares on a logarithmic axis."""
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    # Over less than two decades the powers of ten alone would be one tick or none.
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0,) if high > 100 * low else (1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    ax.yaxis.set_minor_locator(NullLocator())


def dot_size(n_steps: int) -> float:
    """Size of the markers of a line over so many steps."""
    return 3 if n_steps <= 8 else 1.5


def named_lines(
    ax: Axes, lines: Mapping[str, tuple[str, float]], *, title: str | None = None
) -> None:
    """A legend inside the axes, or beside them if it has a title."""
    handles = [Line2D([], [], color=color, lw=lw) for color, lw in lines.values()]
    beside = (1.0, 1.0) if title else None
    ax.legend(handles, list(lines), title=title, loc="upper left", bbox_to_anchor=beside)


def color_key(ax: Axes, what: str, values: Sequence[int], colors: np.ndarray) -> None:
    """Name the colours of `values` beside the axes: a legend, or a colour bar if they are many."""
    if len(values) <= MAX_NAMED:
        handles = [Line2D([], [], color=c, lw=2) for c in colors]
        labels = [f"{v:,}" for v in values]
        ax.legend(handles, labels, title=what, loc="upper left", bbox_to_anchor=(1, 1))
        return
    norm = BoundaryNorm(np.arange(len(values) + 1) - 0.5, len(values))
    mappable = ScalarMappable(norm, ListedColormap(list(colors)))
    figure = ax.figure.get_figure(root=True)
    bar = figure.colorbar(mappable, ax=ax, pad=0.02, aspect=30, label=what)
    ticks = range(0, len(values), ceil(len(values) / 12))
    bar.set_ticks(ticks, labels=[step_label(values[i]) for i in ticks])
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.ax.grid(False)


def figure_key(figure: Figure, lines: Mapping[str, tuple[str, str]]) -> None:
    """Name lines by colour and style above the whole figure."""
    handles = [Line2D([], [], color=color, ls=ls, lw=2) for color, ls in lines.values()]
    figure.legend(handles, list(lines), loc="outside upper center", ncols=len(lines))


def common_labels(figure: Figure, x: str, y: str) -> None:
    """Label the axes of all panels at once."""
    figure.supxlabel(x, fontsize=9)
    figure.supylabel(y, fontsize=9)


def say(ax: Axes, text: str) -> None:
    """Write a remark into the middle of the axes."""
    ax.text(
        *(0.5, 0.5, text),
        transform=ax.transAxes,
        ha="center",
        va="center",
        fontsize=8,
        color="#444444",
        bbox={"facecolor": "white", "edgecolor": "#cccccc", "boxstyle": "round,pad=0.5"},
    )


def message(text: str) -> Figure:
    """A figure that says why there is nothing to draw, in its label too."""
    figure = Figure(figsize=(5.2, 1.4), layout="constrained")
    figure.set_label(text)
    ax = figure.subplots()
    ax.set_axis_off()
    say(ax, text)
    return figure


def heat_map(
    ax: Axes,
    share: np.ndarray,
    columns: Sequence[Any],
    rows: Sequence[Any],
    *,
    annotate: bool,
    absent: np.ndarray | None = None,
    blank_zero: bool = False,
) -> AxesImage:
    """A heat map of shares from 0 to 1. NaN is grey, except where `absent` (blank)."""
    ax.grid(False)
    image = ax.imshow(share, cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
    absent = np.zeros(share.shape, bool) if absent is None else absent
    for i, j in np.argwhere(np.isnan(share) & ~absent):
        box = Rectangle((j - 0.5, i - 0.5), 1, 1, fc="#dddddd", ec="white")
        ax.add_patch(box)
    if annotate:
        for i, j in np.argwhere(share >= 0.005 if blank_zero else ~np.isnan(share)):
            color = "white" if share[i, j] < 0.6 else "black"
            ax.text(
                *(j, i, f"{100 * share[i, j]:.0f}"),
                ha="center",
                va="center",
                fontsize=8,
                color=color,
            )
    for axis, labels in ((ax.xaxis, columns), (ax.yaxis, rows)):
        # Labels of every other cell and so on, where each would touch its neighbour.
        every = ceil(len(labels) / 12)
        axis.set_ticks(range(0, len(labels), every), [str(v) for v in labels[::every]])
    if max(len(str(v)) for v in columns) > 2 and len(columns) > 4:
        ax.tick_params(axis="x", rotation=45)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    return image


def percent_bar(figure: Figure, image: AxesImage, axes: Any, label: str) -> None:
    """A colour bar for shares beside `axes`."""
    bar = figure.colorbar(
        image, ax=axes, pad=0.02, label=label, format=PercentFormatter(1, symbol=" %")
    )
    bar.outline.set_visible(False)
    bar.ax.grid(False)


def layer_panels(layers: Sequence[int], *, sharey: bool) -> tuple[Figure, dict[int, Axes]]:
    """One small panel per layer, all layers first; with a single layer that one is enough."""
    shown = [ALL_LAYERS] if len(layers) == 2 and ALL_LAYERS in layers else list(layers)
    n_columns = min(len(shown), 3 if len(shown) <= 6 else 5)
    n_rows = ceil(len(shown) / n_columns)
    width = 4.4 if len(shown) == 1 else max(6.0, 1.9 * n_columns)
    figure = Figure(figsize=(width, 0.8 + (1.9 if n_rows > 2 else 2.2) * n_rows))
    figure.set_layout_engine("constrained")
    grid = figure.subplots(n_rows, n_columns, squeeze=False, sharey=sharey).flat
    axes = list(grid)
    for ax in axes[len(shown) :]:
        ax.remove()
    panels = dict(zip(shown, axes, strict=False))
    for layer, ax in panels.items():
        ax.set_title("All layers" if layer == ALL_LAYERS else f"Layer {layer}", fontsize=9)
    return figure, panels

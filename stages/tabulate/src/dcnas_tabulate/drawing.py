"""How every figure looks: palette, light and dark ground, axes; and saving so that the same data give the same bytes."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dcnas_harness.files import atomic_write

THEMES = {"light": {"ink": "#1f2328", "paper": "#ffffff"}, "dark": {"ink": "#e6edf3", "paper": "#0d1117"}}
COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#8c6bb1",
    "#7f7f7f",
    "#a6761d",
    "#66a61e",
)
"""Told apart by readers who do not see all colours (Okabe and Ito 2008, extended), on light and on dark ground."""


def new_figure(size: tuple[float, float], theme: str) -> Figure:
    """Return an empty figure of `size` in inches on the theme's ground."""
    figure = Figure(figsize=size, facecolor=THEMES[theme]["paper"])
    FigureCanvasAgg(figure)
    return figure


def style_axes(axes: Axes, theme: str) -> None:
    """Give axes the theme's colours, a faint grid and no frame but left and bottom."""
    ink = THEMES[theme]["ink"]
    axes.set_facecolor(THEMES[theme]["paper"])
    axes.tick_params(which="both", colors=ink, labelsize=9)
    for label in (axes.xaxis.label, axes.yaxis.label, axes.title):
        label.set_color(ink)
    axes.grid(color=ink, alpha=0.12, lw=0.6)
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(ink)


def save_figure(figure: Figure, path: Path) -> None:
    """Write the figure atomically in the form that the path's suffix names, without time stamps: same records, same bytes."""
    with (
        mpl.rc_context({"svg.hashsalt": "dcnas", "svg.fonttype": "path", "path.simplify": True}),
        atomic_write(path) as temporary,
    ):
        kind = path.suffix.removeprefix(".")
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(temporary, format=kind, dpi=100, facecolor=figure.get_facecolor(), metadata=metadata)

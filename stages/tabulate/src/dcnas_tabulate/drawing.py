"""How every figure looks: palette, light and dark ground, axes; and saving so that the same data give the same bytes, and few."""

import html
import io
import re
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dcnas_harness.files import atomic_write, write_text

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
    kind, buffer = path.suffix.removeprefix("."), io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with mpl.rc_context(
        {
            "svg.hashsalt": "dcnas",
            "svg.fonttype": "none",  # text as text: a tenth of the bytes, and it can be searched
            "path.simplify": True,
            "font.sans-serif": ["DejaVu Sans"],  # the other names would stand beside every word
            "font.monospace": ["DejaVu Sans Mono"],
        }
    ):
        figure.savefig(buffer, format=kind, dpi=100, facecolor=figure.get_facecolor(), metadata=metadata)
    content = slim_svg(buffer.getvalue().decode()).encode() if kind == "svg" else buffer.getvalue()
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def save_in_both_themes(figure: Figure, stem: Path) -> None:
    """Write a figure drawn in the light theme as `<stem>_light.svg`, and in the dark theme's colours as `<stem>_dark.svg`."""
    light = stem.with_name(f"{stem.name}_light.svg")
    save_figure(figure, light)
    write_text(stem.with_name(f"{stem.name}_dark.svg"), _darkened(light.read_text(encoding="utf-8")))


def slim_svg(text: str) -> str:
    """Return Matplotlib's SVG without what no reader sees: metadata, line breaks, and coordinates beyond a hundredth of a point."""
    text = re.sub(r"<!DOCTYPE.*?>|<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r' (?:d|x|y|transform|points)="[^"]*"', lambda found: _short(found.group()), text, flags=re.DOTALL)
    text = re.sub(r">\s*\n\s*<", "><", text)
    text = re.sub(
        r"(?<=>)[^<>]*  [^<>]*(?=</text>)", lambda found: found.group().replace(" ", "\N{NO-BREAK SPACE}"), text
    )
    return _STROKES.sub(lambda found: f"<path d={_joined(found.group())} {found.group(2)}/>", text)


def inline_svg(text: str, alt: str) -> str:
    """
    Return an SVG that `save_figure` made on light ground as an element of a page: its ink is the page's `--ink`, its ground the page's own.

    Args:
        alt: What it shows, for readers who do not see it.
    """
    text = text[text.index("<svg") :]
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda found: found.group() if found.group(1) in used else "", text)
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    ink, paper = (THEMES["light"][name] for name in ("ink", "paper"))
    text = re.sub(rf"(<path [^>]*)fill: {paper}", r"\1fill: none", text)  # a text may be white itself
    text = text.replace(ink, "var(--ink)")
    root, rest = text.split(">", 1)
    width = re.search(r' width="([^"]*)"', root)
    assert width is not None, "Matplotlib gives the size"
    root = re.sub(r' (?:width|height|version|xmlns|xmlns:xlink)="[^"]*"', "", root).removeprefix("<svg")
    alt = html.escape(alt)
    return f'<svg class=figure role=img aria-label="{alt}" style="max-width:{width.group(1)}"{root}>{rest}'


def _darkened(text: str) -> str:
    """Return an SVG of the light theme in the dark theme's colours: what drawing it anew would give, but for the names of marks."""
    light, dark = THEMES["light"], THEMES["dark"]
    ground = re.sub(
        rf"(<path [^>]*)fill: {light['paper']}", rf"\1fill: {dark['paper']}", text
    )  # a text may be white itself
    return ground.replace(light["ink"], dark["ink"])


_NUMBER = re.compile(r"-?\d+\.\d{3,}(?:e-?\d+)?")
_STROKES = re.compile(
    r'(?:<path d="([^"]*)" ((?:clip-path="[^"]*" )?style="fill: none[^"]*")/>)(?:<path d="[^"]*" \2/>)+'
)
"""Strokes of one style one after another: one path."""


def _short(attribute: str) -> str:
    rounded = _NUMBER.sub(lambda found: f"{float(found.group()):.2f}".rstrip("0").rstrip("."), attribute)
    return re.sub(r'\s+"', '"', re.sub(r"\s+", " ", rounded))


def _joined(paths: str) -> str:
    return '"' + " ".join(re.findall(r'<path d="([^"]*)"', paths)) + '"'

"""What is drawn stays what it is when it is made small: strokes, text, colours, pixels."""

import io
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
from PIL import Image

from dcnas_tabulate.drawing import THEMES, inline_svg, new_figure, save_figure, slim_svg, style_axes
from dcnas_tabulate.panel import caption, png


def drawn(path: Path) -> str:
    """Draw lines of one colour, marks, words and a white one on light ground; return the SVG."""
    figure = new_figure((4, 3), "light")
    axes = figure.add_subplot()
    style_axes(axes, "light")
    axes.vlines([1, 2, 3], 0, [1.23456, 2, 3], color="#0072b2", alpha=0.5)
    axes.plot([1, 2], [1, 2], "o", color="#d55e00")
    axes.text(1, 1, "PSNR 12.3456 dB,  two spaces")
    axes.text(1, 2, "white", color=THEMES["light"]["paper"])
    save_figure(figure, path)
    return path.read_text(encoding="utf-8")


def test_a_small_svg_is_whole(tmp_path: Path) -> None:
    """It parses, its words are words with every digit and space, its coordinates have two decimals, its three strokes are there."""
    text = drawn(tmp_path / "a.svg")
    root = ET.fromstring(text)
    words = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "PSNR 12.3456 dB,  two spaces".replace(" ", "\N{NO-BREAK SPACE}") in words
    paths = [node for node in root.iter("{http://www.w3.org/2000/svg}path") if "#0072b2" in node.get("style", "")]
    assert sum((node.get("d") or "").count("M") for node in paths) == 3
    assert len(paths) == 1
    for node in root.iter():
        for name in ("d", "x", "y", "transform"):
            assert not re.search(r"\.\d{3}", node.get(name, "")), (name, node.get(name))
    assert "metadata" not in text


def test_rounding_moves_nothing_by_more_than_a_hundredth() -> None:
    """Numbers in places are rounded; those in words, styles and names are left alone."""
    before = '<svg><path d="M 1.23456 -0.00049 \nL 3 4.5e-05" style="stroke-width: 0.123456"/><text x="7.999">1.23456</text></svg>'
    after = '<svg><path d="M 1.23 -0 L 3 4.5e-05" style="stroke-width: 0.123456"/><text x="8">1.23456</text></svg>'
    assert slim_svg(before) == after


def test_strokes_of_two_styles_stay_apart() -> None:
    """Only paths without a filling and of one style, one after another, become one."""
    blue, red, full = (
        f'style="fill: {fill}; stroke: {stroke}"' for fill, stroke in (("none", "b"), ("none", "r"), ("b", "b"))
    )
    text = "".join(f'<path d="M {i}" {style}/>' for i, style in enumerate((blue, blue, red, full, full)))
    joined = f'<path d="M 0 M 1" {blue}/><path d="M 2" {red}/><path d="M 3" {full}/><path d="M 4" {full}/>'
    assert slim_svg(text) == joined


def test_a_drawing_in_the_page_takes_the_pages_colours(tmp_path: Path) -> None:
    """No ground of its own, ink by the page's variable, white words left white, no mark without its shape, a name for who cannot see."""
    text = inline_svg(drawn(tmp_path / "a.svg"), "a <name>")
    assert 'aria-label="a &lt;name&gt;"' in text
    assert THEMES["light"]["ink"] not in text
    assert "var(--ink)" in text
    assert not re.search(rf"<path [^>]*fill: {THEMES['light']['paper']}", text)
    assert re.search(rf"<text [^>]*fill: {THEMES['light']['paper']}[^>]*>white<", text)
    asked = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text))
    given = re.findall(r' id="([^"]*)"', text)
    assert asked
    assert asked == set(given)
    assert len(given) == len(asked)
    assert "max-width:288pt" in text


def test_the_panels_pixels_are_the_scenes() -> None:
    """A PNG gives back every byte, of one channel where the three are equal."""
    colour = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    gray = np.repeat(colour[..., :1], 3, axis=2)
    for pixels, mode in ((colour, "RGB"), (gray, "L")):
        with Image.open(io.BytesIO(png(pixels.tobytes(), 5, 7))) as image:
            assert image.mode == mode
            np.testing.assert_array_equal(np.asarray(image.convert("RGB")), pixels)


def test_a_caption_ticks_what_is_right() -> None:
    """Each digit's class with its mark; nothing for a model that classifies none."""
    assert caption([3, 1], [3, 7]) == "3 ✓  1 ✗"
    assert caption(None, [3, 7]) == ""

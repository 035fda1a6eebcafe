"""The figures: curves over the noise level, and the panel of Figure 3; each in a light and a dark form."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from dcnas_lineage.cells import half_width
from dcnas_lineage.records import read_record
from dcnas_schema.scenes import DIGIT_SIZE
from dcnas_tabulate.drawing import COLOURS, THEMES, new_figure, save_figure, save_in_both_themes, style_axes
from dcnas_tabulate.layout import NOISY_INPUT, Run
from dcnas_tabulate.panel import caption, shown_panels

_LINES = {"joint": "-", "denoiser": "--", "classifier": "-."}
_CURVES = {"psnr_db": "PSNR (dB)", "ssim": "SSIM", "top1_pct": "Top-1 (%)"}
SHOWN_QUANTITIES = tuple(_CURVES)
"""Columns of a record that are drawn over the noise level."""
_BOX = "#d55e00"


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One model's quantity over the noise levels."""

    sigmas: np.ndarray
    seeds: np.ndarray
    """seeds x levels."""


def curves(run: Run, column: str) -> Curve | None:
    """Return the values of `column` of a run's records; `None` where the model lacks the task."""
    tables = [read_record(path)[0] for path in run.paths]
    values = [table[column].to_numpy(zero_copy_only=False).astype(float) for table in tables]
    if not values or np.isnan(values[0]).any():
        return None
    return Curve(sigmas=tables[0]["sigma"].to_numpy(), seeds=np.stack(values))


def noisy_curve(run: Run, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the levels at which `column` of the noisy input is finite, and its values: the same in every record."""
    table = read_record(run.paths[0])[0]
    values = table[f"noisy_{column}"].to_numpy(zero_copy_only=False).astype(float)
    finite = np.isfinite(values)
    return table["sigma"].to_numpy()[finite], values[finite]


def draw_curves(runs: Sequence[Run], out: Path, *, confidence: float) -> None:
    """Write `curves_light.svg` and `curves_dark.svg`: mean over seeds with its interval, seeds as thin lines, the noisy input dotted."""
    theme = "light"
    figure = new_figure((13.5, 5.6), theme)
    for i, (column, title) in enumerate(_CURVES.items()):
        axes: Axes = figure.add_subplot(1, 3, i + 1)
        style_axes(axes, theme)
        for colour, run in zip(_cycle(len(runs)), runs, strict=True):
            if (curve := curves(run, column)) is not None:
                _draw_curve(
                    axes,
                    curve,
                    confidence,
                    color=colour,
                    ls=_LINES[run.spec.kind],
                    label=run.label,
                )
        scored = next((run for run in runs if run.paths), None)
        if scored is not None and column != "top1_pct":
            sigmas, values = noisy_curve(scored, column)
            axes.plot(sigmas, values, ":", color=THEMES[theme]["ink"], label=NOISY_INPUT, lw=1.2)
        axes.set_xlabel("noise σ, in units of the [0, 1] pixel range")
        axes.set_title(title, color=THEMES[theme]["ink"], fontsize=11)
    handles = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if handles:
        figure.legend(
            handles.values(),
            handles.keys(),
            loc="lower center",
            ncols=4,
            frameon=False,
            labelcolor=THEMES[theme]["ink"],
            fontsize=9,
        )
    figure.tight_layout(rect=(0, 0.16, 1, 1))
    save_in_both_themes(figure, out / "curves")


def draw_panel(runs: Sequence[Run], out: Path) -> None:
    """
    Write `figure_3_light.png` and `figure_3_dark.png`: clean, noisy and each model's restored image at several levels, first seed, with
    the first digit enlarged and each digit's predicted class under it.
    """
    shown = shown_panels(runs)
    levels = shown[0][1] if shown else []
    for theme in THEMES:
        columns = 2 + len(shown)
        figure = new_figure((1.75 * columns, max(3.1 * len(levels), 1)), theme)
        grid = figure.add_gridspec(max(2 * len(levels), 1), columns, height_ratios=[1, 0.6] * len(levels) or None)
        for i, first in enumerate(levels):
            images = [("clean", first["clean"], None), ("noisy", first["noisy"], None)]
            for run, rows in shown:
                images.append((run.label.replace(" ", "\n", 1), rows[i]["restored"], rows[i]["predicted"]))
            for j, (title, content, predicted) in enumerate(images):
                whole, zoom = figure.add_subplot(grid[2 * i, j]), figure.add_subplot(grid[2 * i + 1, j])
                _show(whole, zoom, content, first, theme)
                if i == 0:
                    whole.set_title(title, color=THEMES[theme]["ink"], fontsize=8)
                if j == 0:
                    whole.set_ylabel(f"σ = {first['sigma']:g}", color=THEMES[theme]["ink"], fontsize=9)
                zoom.set_xlabel(caption(predicted, first["label"]), color=THEMES[theme]["ink"], fontsize=8)
        figure.tight_layout()
        save_figure(figure, out / f"figure_3_{theme}.png")


def _show(whole: Axes, zoom: Axes, content: bytes, row: dict[str, Any], theme: str) -> None:
    """Draw the scene with a box around its first digit, and the box enlarged."""
    image = np.frombuffer(content, np.uint8).reshape(row["height"], row["width"], 3)
    top, left = row["corners"][:2]
    whole.imshow(image, interpolation="nearest")
    whole.add_patch(Rectangle((left - 0.5, top - 0.5), DIGIT_SIZE, DIGIT_SIZE, fill=False, edgecolor=_BOX, lw=1.2))
    zoom.imshow(image[top : top + DIGIT_SIZE, left : left + DIGIT_SIZE], interpolation="nearest")
    for axes in (whole, zoom):
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_color(_BOX if axes is zoom else THEMES[theme]["ink"])
            spine.set_linewidth(1.2 if axes is zoom else 0.5)


def _draw_curve(axes: Axes, curve: Curve, confidence: float, *, color: str, ls: str, label: str) -> None:
    mean = curve.seeds.mean(0)
    for seed in curve.seeds if len(curve.seeds) > 1 else ():
        axes.plot(curve.sigmas, seed, color=color, ls=ls, lw=0.6, alpha=0.45)
    axes.plot(curve.sigmas, mean, marker="o", color=color, ls=ls, lw=1.8, ms=3.5, label=label)
    if len(curve.seeds) > 2:  # with two seeds Student's interval is wider than any axis; the seeds themselves are drawn
        half = np.array([half_width(list(level), confidence) for level in curve.seeds.T])
        axes.fill_between(curve.sigmas, mean - half, mean + half, color=color, alpha=0.15, lw=0)


def _cycle(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]

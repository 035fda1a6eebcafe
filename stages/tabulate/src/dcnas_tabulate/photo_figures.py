"""Curves over the noise level of models on photos, and Figures 5 and 6: quality against latency, beside the paper's figures."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dcnas_harness.files import write_text
from dcnas_lineage.cells import half_width, latencies_of
from dcnas_lineage.records import read_record
from dcnas_schema.photo_models import CNasSpec, PhotoModelSpec, SpaceSpec, images_of, task_of
from dcnas_tabulate.drawing import COLOURS, THEMES, new_figure, save_figure, style_axes
from dcnas_tabulate.paper_rows import CLASSIFIER, DENOISER, INTEGRATED, PAPER_ROWS, Book
from dcnas_tabulate.photo_layout import LEFT_OUT, PhotoRun, kind_of

QUANTITIES = ("psnr_db", "ssim", "top1_pct", "top5_pct")
_MARKS = {CLASSIFIER: "s", DENOISER: "^", INTEGRATED: "o", "sequential": "D"}
_OURS, _OTHERS = COLOURS[0], COLOURS[1]
_OPS_COLOURS = {4: COLOURS[0], 6: COLOURS[2], 8: COLOURS[1]}


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One model in a plot of quality against latency."""

    label: str
    latency_ms: float
    value: float
    half: float | None
    """Half the width of the interval over seeds; `None` for a single seed."""
    kind: str
    searched: bool
    ours: bool = True
    """False for a figure of the paper."""


def write_photo_curves(runs: Sequence[PhotoRun], folder: Path) -> None:
    """One CSV a quantity: `sigma`, then a column a model (mean over seeds; empty without the task), as dvc.yaml's plots read them."""
    sigmas = next(run.metadata[0].protocol.sigmas for run in runs if run.metadata)
    for quantity in QUANTITIES:
        found = {run.model: _levels(run, quantity) for run in runs}
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(["sigma", *found])
        for level, sigma in enumerate(sigmas):
            writer.writerow([sigma, *("" if curve is None else curve.mean(0)[level] for curve in found.values())])
        write_text(folder / f"{quantity}.csv", buffer.getvalue())


def points_of(
    runs: Sequence[PhotoRun],
    quantity: str,
    *,
    confidence: float,
    at_zero: bool,
    wanted: Callable[[PhotoModelSpec], bool],
) -> list[Point]:
    """Return the runs that have a measured latency and the quantity: its mean over the noise levels, or at sigma 0 alone."""
    points = []
    for run in runs:
        curve = _levels(run, quantity) if wanted(run.spec) else None
        latencies = latencies_of([path.as_posix() for path in run.paths], Path())
        sigmas = np.array(run.metadata[0].protocol.sigmas) if run.metadata else np.array([])
        levels = sigmas == 0 if at_zero else np.full(len(sigmas), fill_value=True)
        if curve is None or not latencies or not levels.any():
            continue
        seeds = [float(value) for value in curve[:, levels].mean(1)]
        points.append(
            Point(
                label=run.label,
                latency_ms=float(np.median([latency.median_ms for latency in latencies])),
                value=float(np.mean(seeds)),
                half=half_width(seeds, confidence),
                kind=kind_of(run.spec),
                searched=isinstance(run.spec, SpaceSpec),
            )
        )
    return points


def paper_points(reference_file: Path, field: str) -> list[Point]:
    """Return the models of the paper's Table 3 that have the quantity."""
    rows = {row.reference: row for row in PAPER_ROWS if row.table == "3"}
    points = []
    with reference_file.open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            row = rows.get((line["table"], line["model"], line["variant"]))
            if row is not None and line[field] and line["latency_ms"]:
                points.append(
                    Point(
                        label=row.label,
                        latency_ms=float(line["latency_ms"]),
                        value=float(line[field]),
                        half=None,
                        kind=row.kind,
                        searched="NAS" in row.label,
                        ours=False,
                    )
                )
    return points


def draw_figure_5(runs: Sequence[PhotoRun], book: Book, out: Path, *, confidence: float) -> None:
    """Write `figure_5_{light,dark}.{svg,png}`: top-1 of classifiers searched on clean photos, by the size of the candidate set."""
    lines: dict[int, list[Point]] = {}
    for ops in _OPS_COLOURS:

        def wanted(spec: PhotoModelSpec, ops: int = ops) -> bool:
            return (
                isinstance(spec, CNasSpec)
                and images_of(spec) == "clean"
                and book.searched(spec, images="clean", ops=ops)
            )

        points = points_of(runs, "top1_pct", confidence=confidence, at_zero=True, wanted=wanted)
        lines[ops] = sorted(points, key=lambda point: point.latency_ms)
    for theme in THEMES:
        ink = THEMES[theme]["ink"]
        figure = new_figure((7.2, 4.6), theme)
        axes: Axes = figure.add_subplot()
        style_axes(axes, theme)
        for ops, points in lines.items():
            if points:
                _draw_line(axes, points, color=_OPS_COLOURS[ops], label=f"{ops} candidate ops")
        axes.set_xlabel("measured latency (ms), this device")
        axes.set_ylabel("top-1 on clean photos (%)")
        axes.set_title("C-NAS by the size of the candidate set", color=ink, fontsize=11)
        if any(lines.values()):
            axes.margins(0.08, 0.12)
            axes.legend(frameon=False, labelcolor=ink, fontsize=9)
        else:
            _say_nothing(axes, ink)
        figure.tight_layout()
        _save(figure, out, "figure_5", theme)


def draw_figure_6(runs: Sequence[PhotoRun], out: Path, *, confidence: float, reference_file: Path) -> None:
    """
    Write `figure_6_{light,dark}.{svg,png}`: top-1 of classifiers on clean photos as in the paper; then top-1 and PSNR of Table 3's models
    on noisy ones, ours and, hollow and on axes of their own, the paper's.
    """

    def clean(spec: PhotoModelSpec) -> bool:
        return images_of(spec) == "clean"

    def noisy(spec: PhotoModelSpec) -> bool:
        return images_of(spec) == "noisy"

    here, there = "measured latency (ms), this device", "latency (ms), GeForce RTX 3090"
    panels: list[tuple[str, str, list[Point], str]] = [
        (
            "Classifiers on clean photos, ours",
            "top-1 (%)",
            points_of(runs, "top1_pct", confidence=confidence, at_zero=True, wanted=clean),
            here,
        ),
        (
            "Noisy photos, ours",
            "top-1 (%)",
            points_of(runs, "top1_pct", confidence=confidence, at_zero=False, wanted=noisy),
            here,
        ),
        ("Noisy photos, the paper's Table 3", "top-1 (%)", paper_points(reference_file, "accuracy_pct"), there),
        (
            "Noisy photos, ours",
            "PSNR (dB)",
            points_of(
                runs, "psnr_db", confidence=confidence, at_zero=False, wanted=lambda spec: task_of(spec) != "classify"
            ),
            here,
        ),
        ("Noisy photos, the paper's Table 3", "PSNR (dB)", paper_points(reference_file, "psnr_db"), there),
    ]
    for theme in THEMES:
        ink = THEMES[theme]["ink"]
        figure = new_figure((15.6, 9.4), theme)
        cells = (1, 2, 3, 5, 6)
        for cell, (title, quantity, points, latency) in zip(cells, panels, strict=True):
            axes: Axes = figure.add_subplot(2, 3, cell)
            style_axes(axes, theme)
            axes.set_title(title, color=ink, fontsize=11)
            axes.set_xlabel(latency)
            axes.set_ylabel(quantity)
            if points:
                _draw_points(axes, points, theme)
            else:
                _say_nothing(axes, ink)
        legend = figure.add_subplot(2, 3, 4)
        legend.set_axis_off()
        legend.legend(*_key(ink), loc="center", frameon=False, labelcolor=ink, fontsize=10, labelspacing=0.9)
        figure.tight_layout(w_pad=2.5, h_pad=2.5)
        for axes in figure.axes:
            _label_points(axes, ink)
        _save(figure, out, "figure_6", theme)


def _levels(run: PhotoRun, quantity: str) -> np.ndarray | None:
    """Return seeds x levels; `None` where the model lacks the task or has no record."""
    values = [read_record(path)[0][quantity].to_numpy(zero_copy_only=False).astype(float) for path in run.paths]
    if not values or np.isnan(values[0]).any():
        return None
    return np.stack(values)


def _draw_line(axes: Axes, points: Sequence[Point], *, color: str, label: str) -> None:
    latencies, values = [point.latency_ms for point in points], [point.value for point in points]
    errors = [point.half or 0 for point in points]
    axes.errorbar(latencies, values, yerr=errors, color=color, marker="o", ms=6, lw=1.8, capsize=3, label=label)


def _draw_points(axes: Axes, points: Sequence[Point], theme: str) -> None:
    ink = THEMES[theme]["ink"]
    for point in points:
        color = _OURS if point.searched else _OTHERS
        axes.errorbar(
            [point.latency_ms],
            [point.value],
            yerr=None if point.half is None else [point.half],
            color=color,
            marker=_MARKS[point.kind],
            ms=8,
            mfc=color if point.ours else "none",
            mew=1.5,
            lw=1.2,
            capsize=3,
            gid=point.label,
        )
    axes.margins(0.16, 0.14)
    axes.tick_params(colors=ink)


def _label_points(axes: Axes, ink: str) -> None:
    """Write each point's name where it covers no other name or point: above, below, right or left of it, at growing distance."""
    named = [
        (str(line.get_gid()), *axes.transData.transform((line.get_xdata()[0], line.get_ydata()[0])))
        for line in axes.lines
        if line.get_gid() and line.get_marker() not in ("_", "|", "None")
    ]
    frame = axes.get_window_extent()
    taken = [(x - 6, y - 6, x + 6, y + 6) for _, x, y in named]
    for label, x, y in sorted(named, key=lambda item: item[1:]):
        width, height = 5.6 * len(label), 12.0
        spots = [
            (x + dx * (width / 2 + 9 * reach) if dx else x, y + dy * (14 * reach))
            for reach in (1.0, 1.8, 2.6, 3.4, 4.2)
            for dx, dy in ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1))
        ]

        def box(
            spot: tuple[float, float], width: float = width, height: float = height
        ) -> tuple[float, float, float, float]:
            return spot[0] - width / 2, spot[1] - height / 2, spot[0] + width / 2, spot[1] + height / 2

        def cost(spot: tuple[float, float]) -> float:
            left, low, right, high = box(spot)
            outside = (
                max(frame.x0 - left, 0) + max(right - frame.x1, 0) + max(frame.y0 - low, 0) + max(high - frame.y1, 0)
            )
            covered = sum(_overlap(box(spot), other) for other in taken)
            return 50 * outside + covered

        best = min(spots, key=cost)
        taken.append(box(best))
        where = axes.transData.inverted().transform(best)
        line = (
            {"arrowstyle": "-", "color": ink, "alpha": 0.35, "lw": 0.7}
            if abs(best[1] - y) + abs(best[0] - x) > 40
            else None
        )
        at = axes.transData.inverted().transform((x, y))
        axes.annotate(
            label, xy=tuple(at), xytext=tuple(where), color=ink, fontsize=8, ha="center", va="center", arrowprops=line
        )


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    return max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)


def _key(ink: str) -> tuple[list[Line2D], list[str]]:
    entries: Mapping[str, Line2D] = {
        **{
            name: Line2D([], [], color=ink, marker=_MARKS[name], ls="", ms=8)
            for name in (CLASSIFIER, DENOISER, INTEGRATED, "sequential")
        },
        "net of the search space": Line2D([], [], color=_OURS, marker="o", ls="", ms=8),
        "other net": Line2D([], [], color=_OTHERS, marker="o", ls="", ms=8),
        "the paper's figure": Line2D([], [], color=ink, marker="o", mfc="none", mew=1.5, ls="", ms=8),
    }
    return list(entries.values()), list(entries)


def _say_nothing(axes: Axes, ink: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(0.5, 0.5, LEFT_OUT, color=ink, ha="center", va="center", transform=axes.transAxes)


def _save(figure: Figure, out: Path, name: str, theme: str) -> None:
    for kind in ("svg", "png"):
        save_figure(figure, out / f"{name}_{theme}.{kind}")

"""Curves over the noise level of models on photos, and Figures 5 and 6: quality against latency, beside the paper's figures."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dcnas_harness.files import write_text
from dcnas_lineage.cells import NOISY, doubts_of, half_width, latencies_of
from dcnas_lineage.records import read_record
from dcnas_schema.photo_models import CNasSpec, SpaceSpec
from dcnas_tabulate.drawing import COLOURS, THEMES, new_figure, save_figure, style_axes
from dcnas_tabulate.labels import label_points
from dcnas_tabulate.latency_keys import LatencyKey, drawn_latency, measured_key
from dcnas_tabulate.paper_rows import CLASSIFIER, CLEAN, DENOISER, INTEGRATED, PAPER_ROWS, SEQUENTIAL, Book
from dcnas_tabulate.photo_layout import FURTHER, LEFT_OUT, PhotoRun, Row, is_random, kind_of

QUANTITIES = ("psnr_db", "ssim", "top1_pct", "top5_pct")
_MARKS = {CLASSIFIER: "s", DENOISER: "^", INTEGRATED: "o", SEQUENTIAL: "D"}
_OURS, _OTHERS = COLOURS[0], COLOURS[1]
_COMPARED = 1
"""Group of the clean classifiers that the paper's Figure 6 compares: at the target M, and of the literature; without any, all are drawn."""
_FEWEST_SEEDS = 3
_OPS_COLOURS = {4: COLOURS[0], 6: COLOURS[2], 8: COLOURS[1]}


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One model in a plot of quality against latency."""

    label: str
    latency_ms: float
    value: float
    half: float | None
    """Half the width of the interval over seeds; `None` for one or two, whose interval is wider than any axis."""
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
    runs: Sequence[PhotoRun], quantity: str, *, device: LatencyKey | None, confidence: float, at_zero: bool
) -> list[Point]:
    """
    Return the runs that have a latency of `device` and the quantity: its mean over the noise levels, or at sigma 0 alone.

    Args:
        device: Whose latencies share the axis (`drawn_latency`).
    """
    points = []
    for run in runs:
        curve = _levels(run, quantity)
        made = zip(run.paths, run.metadata, strict=True)
        sources = [path.as_posix() for path, metadata in made if measured_key(metadata) == device]
        latencies = latencies_of(sources, Path())
        sigmas = np.array(run.metadata[0].protocol.sigmas) if run.metadata else np.array([])
        levels = sigmas == 0 if at_zero else np.full(len(sigmas), fill_value=True)
        if curve is None or not latencies or not levels.any():
            continue
        seeds = [float(value) for value in curve[:, levels].mean(1)]
        points.append(
            Point(
                label=f"{run.label} {NOISY}" if doubts_of(sources, Path()) else run.label,
                latency_ms=float(np.median([latency.median_ms for latency in latencies])),
                value=float(np.mean(seeds)),
                half=half_width(seeds, confidence) if len(seeds) >= _FEWEST_SEEDS else None,
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
    device, latency = drawn_latency(runs)
    lines: dict[int, list[Point]] = {}
    for ops in _OPS_COLOURS:
        wanted = [
            run
            for run in runs
            if isinstance(run.spec, CNasSpec)
            and run.spec.images == "clean"
            and book.searched(run.spec, images="clean", ops=ops)
        ]
        points = points_of(wanted, "top1_pct", device=device, confidence=confidence, at_zero=True)
        lines[ops] = sorted(points, key=lambda point: point.latency_ms)
    for theme in THEMES:
        ink = THEMES[theme]["ink"]
        figure = new_figure((7.2, 4.6), theme)
        axes: Axes = figure.add_subplot()
        style_axes(axes, theme)
        for ops, points in lines.items():
            if points:
                _draw_line(axes, points, color=_OPS_COLOURS[ops], label=f"{ops} candidate ops")
        axes.set_xlabel(latency)
        axes.set_ylabel("top-1 on clean photos (%)")
        axes.set_title("C-NAS by the size of the candidate set", color=ink, fontsize=11)
        if any(lines.values()):
            axes.margins(0.08, 0.12)
            figure.legend(loc="lower center", ncols=len(lines), frameon=False, labelcolor=ink, fontsize=9)
        else:
            _say_nothing(axes, ink)
        figure.tight_layout(rect=(0, 0.07, 1, 1))
        _save(figure, out, "figure_5", theme)


def draw_figure_6(rows_of: Mapping[str, Sequence[Row]], out: Path, *, confidence: float, reference_file: Path) -> None:
    """
    Write `figure_6_{light,dark}.{svg,png}`: top-1 of classifiers on clean photos as in the paper; then top-1 and PSNR of Table 3's models
    on noisy ones, ours and, hollow and on axes of their own, the paper's.
    """

    def points(rows: Sequence[Row], quantity: str, *, at_zero: bool = False) -> list[Point]:
        return points_of(_named(rows), quantity, device=device, confidence=confidence, at_zero=at_zero)

    device, here = drawn_latency([run for rows in rows_of.values() for row in rows for run in row.runs])
    there = "latency (ms), GeForce RTX 3090, not synchronised"
    compared = [row for row in rows_of[CLEAN] if row.group == _COMPARED]
    clean, noisy = compared if any(row.runs for row in compared) else rows_of[CLEAN], rows_of["3"]
    ours, theirs = "Noisy photos, ours", "Noisy photos, the paper's Table 3"
    panels: list[tuple[str, str, list[Point], str]] = [
        ("Classifiers on clean photos, ours", "top-1 (%)", points(clean, "top1_pct", at_zero=True), here),
        (ours, "top-1 (%)", points(noisy, "top1_pct"), here),
        (theirs, "top-1 (%)", paper_points(reference_file, "accuracy_pct"), there),
        (ours, "PSNR (dB)", points(noisy, "psnr_db"), here),
        (theirs, "PSNR (dB)", paper_points(reference_file, "psnr_db"), there),
    ]
    for theme in THEMES:
        ink = THEMES[theme]["ink"]
        figure = new_figure((15.6, 9.4), theme)
        drawn: list[tuple[Axes, list[Point]]] = []
        for cell, (title, quantity, found, latency) in zip((1, 2, 3, 5, 6), panels, strict=True):
            axes: Axes = figure.add_subplot(2, 3, cell)
            style_axes(axes, theme)
            axes.set_title(title, color=ink, fontsize=11)
            axes.set_xlabel(latency)
            axes.set_ylabel(quantity)
            if found:
                _draw_points(axes, found)
            else:
                _say_nothing(axes, ink)
            drawn.append((axes, found))
        legend = figure.add_subplot(2, 3, 4)
        legend.set_axis_off()
        legend.legend(*_key(ink), loc="center", frameon=False, labelcolor=ink, fontsize=10, labelspacing=0.9)
        figure.tight_layout(w_pad=2.5, h_pad=2.5)
        for axes, found in drawn:
            label_points(axes, [(point.label, point.latency_ms, point.value) for point in found], ink)
        _save(figure, out, "figure_6", theme)


def _named(rows: Sequence[Row]) -> list[PhotoRun]:
    """Return the models of the rows under the rows' names; random subnets bear the name `random` alone, further models none."""
    return [
        replace(row.run, label="random" if is_random(row.run.spec) else row.label)
        for row in rows
        if row.run is not None and row.group != FURTHER
    ]


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


def _draw_points(axes: Axes, points: Sequence[Point]) -> None:
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
        )
    axes.margins(0.16, 0.14)


def _key(ink: str) -> tuple[list[Line2D], list[str]]:
    entries: Mapping[str, Line2D] = {
        **{
            name: Line2D([], [], color=ink, marker=_MARKS[name], ls="", ms=8)
            for name in (CLASSIFIER, DENOISER, INTEGRATED, SEQUENTIAL)
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

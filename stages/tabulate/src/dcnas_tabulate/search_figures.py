"""Figure 4: the alphas of one block over the epochs, and the most likely op of every block, with beta removed and with beta learned."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dcnas_lineage.records import read_search
from dcnas_schema.search_log import oscillation
from dcnas_schema.search_params import SearchSpec
from dcnas_schema.space import OPS, PLACES, OpName
from dcnas_tabulate.drawing import COLOURS, THEMES, new_figure, save_figure, style_axes
from dcnas_tabulate.photo_layout import LEFT_OUT, PhotoTables
from dcnas_tabulate.photo_records import SearchRun

_BLOCK = (5, 3)
"""Network stage and block of the paper's Figure 4: stage 5, its fourth block."""
_MOST = 2
"""Searches drawn of each kind; the paper draws two."""
_WORDS = {"removed": "β removed", "sink": "β learned"}
_COLOUR_OF: dict[OpName, str] = dict(zip(OPS, COLOURS, strict=False))


@dataclass(frozen=True, kw_only=True, slots=True)
class Course:
    """How a search went."""

    title: str
    ops: tuple[OpName, ...]
    alphas: np.ndarray
    """Epoch x op: probabilities at the block of Figure 4."""
    choices: np.ndarray
    """Epoch x block: number of the most likely op."""
    depths: np.ndarray
    """Epoch x network stage: blocks that are kept."""
    warmup: int
    """Epochs before the architecture is trained."""

    @property
    def oscillation(self) -> float:
        """Argmax flips a block over the last third of the epochs."""
        return oscillation(self.choices.tolist())


def compared_searches(settings: PhotoTables, runs: Sequence[SearchRun]) -> dict[str, list[SearchRun]]:
    """
    Return the searches of Figure 4 by their beta: those that learn it, and those that differ from them in nothing else.

    Of several such pairs the one with the fewest ops and the smallest target, as in the paper. Where none learns it, there is no pair, and
    the search with beta removed is that of the paper's recipe on clean photos, else the first.
    """
    searches = {name: settings.searches[name] for name in settings.run_searches}
    pair = next(iter(sorted(_pairs(searches), key=lambda names: _order(searches[names[0]], settings))), None)
    if pair is None:
        names = sorted(
            (name for name, spec in searches.items() if spec.beta == "removed"),
            key=lambda name: (searches[name].images != "clean", *_order(searches[name], settings)),
        )[:1]
    else:
        names = list(pair)
    found: dict[str, list[SearchRun]] = {beta: [] for beta in _WORDS}
    for run in runs:
        if run.search in names and len(found[run.metadata.spec.beta]) < _MOST:
            found[run.metadata.spec.beta].append(run)
    return found


def course_of(run: SearchRun) -> Course:
    """Return how a search went, from its log."""
    table, metadata = read_search(run.log)
    ops, place = metadata.ops, _place()
    logs = np.array(table["log_alphas"].to_pylist()).reshape(-1, len(PLACES), len(ops))[:, place]
    weights = np.exp(logs - logs.max(axis=1, keepdims=True))
    return Course(
        title=f"{_WORDS[metadata.spec.beta]}: {run.search}, seed {run.seed}",
        ops=ops,
        alphas=weights / weights.sum(axis=1, keepdims=True),
        choices=np.array(table["choices"].to_pylist()),
        depths=np.array(table["depths"].to_pylist()),
        warmup=metadata.params.warmup_epochs,
    )


def draw_figure_4(courses: Mapping[str, Sequence[Course]], out: Path) -> None:
    """Write `figure_4_{light,dark}.{svg,png}`: a column a search, alphas above, the choices of all blocks below."""
    columns = [(beta, course) for beta in _WORDS for course in courses[beta] or (None,)]
    for theme in THEMES:
        ink = THEMES[theme]["ink"]
        figure = new_figure((max(3.7 * len(columns), 7.4), 6.4), theme)
        grid = figure.add_gridspec(
            2,
            len(columns),
            height_ratios=[1, 1.15],
            left=0.075,
            right=0.985,
            top=0.9,
            bottom=0.16,
            hspace=0.42,
            wspace=0.24,
        )
        for number, (beta, course) in enumerate(columns):
            above, below = figure.add_subplot(grid[0, number]), figure.add_subplot(grid[1, number])
            if course is None:
                for axes in (above, below):
                    axes.set_axis_off()
                above.text(
                    0.5,
                    0.5,
                    f"{_WORDS[beta]}:\n{LEFT_OUT}",
                    color=ink,
                    ha="center",
                    va="center",
                    transform=above.transAxes,
                )
                continue
            _draw_alphas(above, course, theme)
            _draw_choices(below, course, theme)
            if number == 0:
                above.set_ylabel(f"α at network stage {_BLOCK[0]}, block {_BLOCK[1] + 1}", color=ink, fontsize=9)
                below.set_ylabel("block, in the order of the net", color=ink, fontsize=9)
        _legend(figure, [course for _, course in columns if course is not None], ink)
        for kind in ("svg", "png"):
            save_figure(figure, out / f"figure_4_{theme}.{kind}")


def _draw_alphas(axes: Axes, course: Course, theme: str) -> None:
    style_axes(axes, theme)
    epochs = np.arange(1, len(course.alphas) + 1)
    for number, op in enumerate(course.ops):
        axes.plot(epochs, course.alphas[:, number], color=_COLOUR_OF[op], lw=1.6)
    if course.warmup:
        axes.axvspan(0.5, course.warmup + 0.5, color=THEMES[theme]["ink"], alpha=0.07, lw=0)
    axes.set_xlim(0.5, len(epochs) + 0.5)
    axes.set_ylim(0, 1)
    axes.set_title(f"{course.title}\noscillation {course.oscillation:.2f}", color=THEMES[theme]["ink"], fontsize=9)
    axes.set_xlabel("epoch (shaded: weights only)" if course.warmup else "epoch", fontsize=9)


def _draw_choices(axes: Axes, course: Course, theme: str) -> None:
    """The most likely op of each block; a block that the learned depth drops is faint."""
    style_axes(axes, theme)
    axes.grid(visible=False)
    count = len(course.ops)
    colours = ListedColormap([_COLOUR_OF[op] for op in course.ops])
    norm = BoundaryNorm(np.arange(count + 1) - 0.5, count)
    extent = (0.5, len(course.choices) + 0.5, len(PLACES) + 0.5, 0.5)
    kept = np.array([[depths[place.stage - 1] > place.block for place in PLACES] for depths in course.depths])
    axes.imshow(
        course.choices.T,
        cmap=colours,
        norm=norm,
        aspect="auto",
        interpolation="nearest",
        extent=extent,
        alpha=np.where(kept.T, 1.0, 0.22),
    )
    starts = [number for number, place in enumerate(PLACES, start=1) if place.block == 0]
    axes.set_yticks(starts, [f"{PLACES[number - 1].stage}.1" for number in starts])
    marked = _place() + 1
    axes.annotate(
        "",
        xy=(1.0, marked),
        xytext=(1.045, marked),
        xycoords=("axes fraction", "data"),
        textcoords=("axes fraction", "data"),
        arrowprops={"arrowstyle": "-|>", "color": THEMES[theme]["ink"], "lw": 1},
        annotation_clip=False,
    )
    axes.set_xlabel("epoch", fontsize=9)


def _legend(figure: Figure, courses: Sequence[Course], ink: str) -> None:
    ops = [op for op in OPS if any(op in course.ops for course in courses)]
    handles = [Line2D([], [], color=_COLOUR_OF[op], lw=4) for op in ops]
    if handles:
        figure.legend(
            handles,
            ops,
            loc="lower center",
            ncols=len(ops),
            frameon=False,
            labelcolor=ink,
            fontsize=9,
            handlelength=1.2,
        )


def _pairs(searches: Mapping[str, SearchSpec]) -> list[tuple[str, str]]:
    return [
        (removed, learned)
        for removed, spec in searches.items()
        for learned, other in searches.items()
        if (spec.beta, other.beta) == ("removed", "sink") and spec == other.model_copy(update={"beta": "removed"})
    ]


def _order(spec: SearchSpec, settings: PhotoTables) -> tuple[int, int]:
    size = settings.book.sizes.get(spec.target)
    return spec.ops, "SML".index(size) if size is not None else len("SML")


def _place() -> int:
    return next(number for number, place in enumerate(PLACES) if (place.stage, place.block) == _BLOCK)

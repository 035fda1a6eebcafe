"""What stands in which table: rows from the models that run, columns with their rule and pointer."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dcnas_schema.cells import Cell, Reducer
from dcnas_schema.params import ClassifierSpec, DenoiserSpec, JointSpec, ModelSpec, UNetSpec
from dcnas_schema.records import EvaluationMetadata

BASELINE = UNetSpec(depth=4, base=32, multiplier=2.0, convs=2)
REDUCED = UNetSpec(depth=4, base=8, multiplier=1.5, convs=2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """The records of one model: one a seed that was asked for and is there."""

    model: str
    spec: ModelSpec
    seeds: tuple[int, ...]
    paths: tuple[Path, ...]
    metadata: tuple[EvaluationMetadata, ...]
    wanted: int
    """Seeds asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column of a table: how each of its cells follows from the row's records."""

    title: str
    key: str
    """Name in the CSV and Parquet forms; empty where the column is not a number."""
    reducer: Reducer
    pointer: str = ""
    decimals: int = 2
    skip_sigma_zero: bool = False
    compare: int = 0
    """+1: higher is better, -1: lower; 0: never marked."""
    card: str | None = None
    """Only records made on this device, by its name, fill the column."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """A table before its cells are derived."""

    name: str
    title: str
    columns: tuple[Column, ...]
    runs: tuple[Run, ...]
    references: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    """Model -> (table, model, variant) of the paper's row."""
    rivals: tuple[tuple[str, str], ...] = ()
    """Pairs of models compared seed by seed."""
    noisy_row: bool = False


def row_label(model: str, spec: ModelSpec) -> str:
    """Return the name that a model has in the paper, or its own."""
    sizes = {BASELINE: "baseline", REDUCED: "reduced"}
    if isinstance(spec, JointSpec) and spec.unet in sizes:
        return f"DC-Net {sizes[spec.unet]} {spec.join}"
    if isinstance(spec, DenoiserSpec) and spec.unet in sizes:
        return {"baseline": "UNet", "reduced": "UNet-S"}[sizes[spec.unet]]
    if isinstance(spec, ClassifierSpec):
        return f"{'Conv' if spec.classifier == 'conv' else 'MBConv'} on {spec.images} digits"
    return model


def layouts(runs: Sequence[Run]) -> list[Layout]:
    """Return the tables of Sec. 3: joint models, denoisers, classifiers; a table whose models do not run has no rows."""
    cards = list(dict.fromkeys(metadata.card.name for run in runs for metadata in run.metadata if metadata.latency))
    joint = tuple(run for run in runs if isinstance(run.spec, JointSpec))
    return [
        Layout(
            name="table_1",
            title="Table 1: DC-Net, integrated and sequential",
            columns=(*_cost(cards), *_restoration(), *_accuracy(), *_count(), *_paper(), _source()),
            runs=joint,
            references={run.model: reference for run in joint if (reference := _paper_row(run.spec))},
            rivals=tuple(_rivals(joint)),
            noisy_row=True,
        ),
        Layout(
            name="table_7",
            title="Table 7: separate denoisers",
            columns=(*_cost(cards), *_restoration(), *_count(), _source()),
            runs=tuple(run for run in runs if isinstance(run.spec, DenoiserSpec)),
            noisy_row=True,
        ),
        Layout(
            name="table_8",
            title="Table 8: separate classifiers",
            columns=(*_cost(cards), *_accuracy(), *_count(), _source()),
            runs=tuple(run for run in runs if isinstance(run.spec, ClassifierSpec)),
        ),
    ]


def make_cell(column: Column, label: str, run: Run, layout: Layout, reference_file: Path) -> Cell:
    """Return the cell of `run` in `column`, its text not yet derived."""
    sources = [path.as_posix() for path in run.paths]
    pointer = column.pointer
    if column.reducer == "label":
        pointer = label
    elif column.reducer == "count":
        pointer = str(run.wanted)
    elif column.reducer == "reference":
        reference = layout.references.get(run.model, ("", "", ""))
        pointer, sources = ",".join((*reference, column.pointer)), [reference_file.as_posix()]
    elif column.card is not None:
        sources = [p.as_posix() for p, m in zip(run.paths, run.metadata, strict=True) if m.card.name == column.card]
    return Cell(
        row=label,
        column=column.title,
        text="",
        reducer=column.reducer,
        pointer=pointer,
        decimals=column.decimals,
        skip_sigma_zero=column.skip_sigma_zero,
        sources=tuple(sources),
    )


def noisy_cell(column: Column, run: Run) -> Cell | None:
    """Return the cell of the noisy input itself in `column`; `None` where the column says nothing of it."""
    pointer = {"psnr_db": "noisy_psnr_db", "ssim": "noisy_ssim"}.get(column.pointer)
    if column.reducer == "label":
        return make_cell(column, "noisy input", run, Layout(name="", title="", columns=(), runs=()), Path())
    if column.reducer != "mean_ci" or pointer is None:
        return None
    return Cell(
        row="noisy input",
        column=column.title,
        text="",
        reducer="mean_ci",
        pointer=pointer,
        decimals=column.decimals,
        skip_sigma_zero=column.skip_sigma_zero,
        sources=(run.paths[0].as_posix(),),  # the same images and noise in every record: one stands for all
    )


def _cost(cards: Sequence[str]) -> tuple[Column, ...]:
    many = len(cards) > 1
    return (
        Column(title="Model", key="", reducer="label"),
        Column(title="MACs (M)", key="macs_m", reducer="value", pointer="macs_m", decimals=1),
        Column(title="Parameters", key="parameters", reducer="value", pointer="parameters", decimals=0),
        *(
            Column(
                title=f"Latency (ms) on {card}" if many else "Latency (ms)",
                key=f"latency_ms_{i}" if many else "latency_ms",
                reducer="median_spread",
                card=card,
            )
            for i, card in enumerate(cards)
        ),
    )


def _restoration() -> tuple[Column, ...]:
    return (
        Column(title="PSNR (dB)", key="psnr_db", reducer="mean_ci", pointer="psnr_db", compare=1),
        Column(
            title="PSNR, σ>0 (dB)",
            key="psnr_db_without_sigma_0",
            reducer="mean_ci",
            pointer="psnr_db",
            skip_sigma_zero=True,
            compare=1,
        ),
        Column(title="SSIM", key="ssim", reducer="mean_ci", pointer="ssim", decimals=3, compare=1),
    )


def _accuracy() -> tuple[Column, ...]:
    return (Column(title="Top-1 (%)", key="top1_pct", reducer="mean_ci", pointer="top1_pct", decimals=1, compare=1),)


def _count() -> tuple[Column, ...]:
    return (
        Column(title="Epochs", key="epochs", reducer="value", pointer="epochs", decimals=0),
        Column(title="Seeds", key="seeds", reducer="count"),
    )


def _paper() -> tuple[Column, ...]:
    fields = {
        "flops_m": "MACs (M)",
        "latency_ms": "lat. (ms)",
        "psnr_db": "PSNR (dB)",
        "ssim": "SSIM",
        "accuracy_pct": "top-1 (%)",
    }
    return tuple(
        Column(title=f"paper {title}", key=f"paper_{name}", reducer="reference", pointer=name)
        for name, title in fields.items()
    )


def _source() -> Column:
    return Column(title="source", key="", reducer="paths")


def _paper_row(spec: ModelSpec) -> tuple[str, str, str] | None:
    sizes = {BASELINE: "DC-Net baseline", REDUCED: "DC-Net reduced"}
    if not isinstance(spec, JointSpec) or spec.unet not in sizes:
        return None
    return "1", sizes[spec.unet], spec.join


def _rivals(runs: Sequence[Run]) -> list[tuple[str, str]]:
    return [
        (a.model, b.model)
        for a in runs
        for b in runs
        if isinstance(a.spec, JointSpec)
        and isinstance(b.spec, JointSpec)
        and a.spec.join == "integrated"
        and b.spec.join == "sequential"
        and a.spec.unet == b.spec.unet
        and a.seeds == b.seeds
    ]

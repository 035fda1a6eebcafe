"""What stands in which table: rows from the models that run, columns with their rule and pointer."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dcnas_schema.cells import Cell, Reducer
from dcnas_schema.params import ClassifierSpec, DenoiserSpec, JointSpec, ModelSpec, UNetSpec
from dcnas_schema.records import EvaluationMetadata

BASELINE = UNetSpec(depth=4, base=32, multiplier=2.0, convs=2)
REDUCED = UNetSpec(depth=4, base=8, multiplier=1.5, convs=2)
NOISY_INPUT = "noisy input"
"""Label of the row that scores the input itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """The records of one model: one a seed that was asked for and is there."""

    model: str
    label: str
    """Its name in tables and figures, which no other run has."""
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
    only_sigma_zero: bool = False
    compare: int = 0
    """+1: higher is better, -1: lower; 0: never marked."""
    of_measured: bool = False
    """Whether the figure follows from a measured latency and bears its mark."""
    device: tuple[tuple[str, str], ...] | None = None
    """Only latencies of this key (`latency_keys`) fill the column."""


SOURCE = Column(title="source", key="", reducer="paths")


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
        return f"{'Conv' if spec.classifier == 'conv' else 'MBConv'} trained on {spec.images} digits"
    return model


def row_labels(models: Mapping[str, ModelSpec]) -> dict[str, str]:
    """Return a label for each model: `row_label`, with the model's own name behind it where several would have the same."""
    labels = {model: row_label(model, spec) for model, spec in models.items()}
    count = Counter(labels.values())
    return {model: f"{label} ({model})" if count[label] > 1 else label for model, label in labels.items()}


def layouts(runs: Sequence[Run], latencies: Sequence[Column]) -> list[Layout]:
    """
    Return Table 1 of the paper (joint models) and 7 and 8 of its supplement (denoisers, classifiers); none may have rows.

    Args:
        latencies: Columns of the measured latencies.
    """
    cost = (
        Column(title="Model", key="", reducer="label"),
        Column(title="MACs (M)", key="macs_m", reducer="value", pointer="macs_m", decimals=1),
        Column(title="Parameters", key="parameters", reducer="value", pointer="parameters", decimals=0),
        *latencies,
    )
    joint = tuple(run for run in runs if isinstance(run.spec, JointSpec))
    return [
        Layout(
            name="table_1",
            title="Table 1: DC-Net, integrated and sequential",
            columns=(*cost, *restoration_columns(), *_accuracy(), *count_columns("value"), *_paper(), SOURCE),
            runs=joint,
            references={run.model: reference for run in joint if (reference := _paper_row(run.spec))},
            rivals=tuple(_rivals(joint)),
            noisy_row=True,
        ),
        Layout(
            name="table_7",
            title="Table 7: separate denoisers",
            columns=(*cost, *restoration_columns(), *count_columns("value"), SOURCE),
            runs=tuple(run for run in runs if isinstance(run.spec, DenoiserSpec)),
            noisy_row=True,
        ),
        Layout(
            name="table_8",
            title="Table 8: separate classifiers",
            columns=(*cost, *_accuracy(), _accuracy_without_noise(), *count_columns("value"), SOURCE),
            runs=tuple(run for run in runs if isinstance(run.spec, ClassifierSpec)),
        ),
    ]


def cell_of(
    column: Column,
    row: str,
    *,
    reducer: Reducer | None = None,
    pointer: str | None = None,
    sources: Sequence[Path] = (),
) -> Cell:
    """Return a cell of a row, its text not yet derived; by its column's rule and pointer where none are given."""
    reducer = reducer or column.reducer
    return Cell(
        row=row,
        column=column.title,
        text="",
        reducer=reducer,
        pointer=column.pointer if pointer is None else pointer,
        decimals=column.decimals,
        skip_sigma_zero=column.skip_sigma_zero,
        only_sigma_zero=column.only_sigma_zero,
        of_measured=column.of_measured and reducer != "label",
        sources=() if reducer == "label" else tuple(path.as_posix() for path in sources),
    )


def noisy_cell(column: Column, record: Path) -> Cell | None:
    """
    Return the cell of the noisy input itself in `column`; `None` where the column says nothing of it.

    Args:
        record: The same images and noise are in every record: one stands for all.
    """
    if column.reducer == "label":
        return cell_of(column, NOISY_INPUT, pointer="input" if column.pointer == "kind" else NOISY_INPUT)
    pointer = {"psnr_db": "noisy_psnr_db", "ssim": "noisy_ssim"}.get(column.pointer)
    if column.reducer != "mean_ci" or pointer is None:
        return None
    return cell_of(column, NOISY_INPUT, pointer=pointer, sources=[record])


def restoration_columns() -> tuple[Column, ...]:
    """Return the columns of how good restored images are."""
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
        Column(title="PSNR, pooled (dB)", key="psnr_pooled_db", reducer="mean_ci", pointer="psnr_pooled_db", compare=1),
        Column(title="SSIM", key="ssim", reducer="mean_ci", pointer="ssim", decimals=3, compare=1),
    )


def _accuracy() -> tuple[Column, ...]:
    return (Column(title="Top-1 (%)", key="top1_pct", reducer="mean_ci", pointer="top1_pct", decimals=1, compare=1),)


def _accuracy_without_noise() -> Column:
    return Column(
        title="Top-1, σ=0 (%)",
        key="top1_pct_at_sigma_0",
        reducer="mean_ci",
        pointer="top1_pct",
        decimals=1,
        only_sigma_zero=True,
    )


def count_columns(epochs: Reducer) -> tuple[Column, ...]:
    """Return the columns of how long and how often models were trained; `epochs` is the rule of the former."""
    return (
        Column(title="Epochs", key="epochs", reducer=epochs, pointer="epochs", decimals=0),
        Column(title="Seeds", key="seeds", reducer="count"),
    )


def paper_columns(*fields: str) -> tuple[Column, ...]:
    """Return the columns of these fields of the paper's CSV."""
    titles = {
        "flops_m": "MACs (M)",
        "latency_ms": "lat. (ms)",
        "psnr_db": "PSNR (dB)",
        "ssim": "SSIM",
        "accuracy_pct": "top-1 (%)",
    }
    return tuple(
        Column(title=f"paper {titles[name]}", key=f"paper_{name}", reducer="reference", pointer=name) for name in fields
    )


def _paper() -> tuple[Column, ...]:
    return paper_columns("flops_m", "latency_ms", "psnr_db", "ssim", "accuracy_pct")


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
    ]

"""Section of params.yaml for the pipeline stage profile_latency."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from dcnas_schema.photo_models import BaselineClassifier
from dcnas_schema.section import Count, CountOrZero, Positive, Section, Seed, no_boolean


class GateLimits(Section):
    """Limits of the noise gate; beyond one of them a latency profile is refused, or marked where `allow_noisy` says so."""

    builds_differ_pct: Positive
    """Two interleaved builds of the same entries, median difference."""
    accepted_pct: Annotated[float, Field(ge=0, le=100)]
    """Least share of samples that must be accepted."""
    used_all_pct: Annotated[float, Field(ge=0, le=100)]
    """Share of the table's entries that may be made of rejected samples too, because fewer than half of theirs were accepted."""
    slow_pct: Positive
    """How far above this machine's best the reference op may be even in the quiet moments that all figures are levelled to."""
    drift_pct: Positive
    """From the first third of the rounds to the last."""
    others_pct: Positive
    """Share of the time of the cores that are timed on that other programs may take."""
    clock_spread_pct: Positive
    """Spread of a GPU's clock while it is timed."""
    mape_pct: Positive
    """Mean error of the predictor on held-out whole nets of the worst kind."""
    plan_pct: Positive
    """Mean error of the table at held-out widths: a plan that ended too early shows here."""


class ProfileLatencyParams(Section):
    """Section of the pipeline stage profile_latency."""

    source: Literal["measure", "file"]
    """`measure` times this machine; `file` takes a profile that `dcnas profile` made on another device."""
    file: str | None
    """The profile of `source: file`."""
    runtime: Literal["torch_eager", "torch_cuda_graph", "torch_compile", "onnxruntime", "simulated"]
    provider: str | None
    """Execution provider of onnxruntime, such as CPUExecutionProvider; unused by the others."""
    batch: Count
    """Images per forward pass (paper: 32)."""
    image_size: Annotated[int, Field(ge=32, le=4096)]
    """Height and width of an image in pixels (paper: 224)."""
    classes: Annotated[int, Field(ge=2, le=100_000)]
    precision: Literal["fp32", "bf16"]
    memory_format: Literal["channels_last", "contiguous"]
    ops: Literal[4, 6, 8]
    """Candidate ops of the space that the table covers; one of 8 covers smaller ones."""
    width_multiple: Annotated[Literal[1, 2, 4, 8, 16, 32], BeforeValidator(no_boolean)]
    """Widths that a search may give a block are multiples of this; the table interpolates the others."""
    most_entries: Annotated[int, Field(ge=470, le=100_000)]
    """Most measured points of the plan, whose beginning takes up to 468; the published recipe measures 2,802 (every eighth width)."""
    generations: Annotated[int, Field(ge=1, le=20)]
    """Generations of the plan: the first is its beginning, the ends and middles of the curves; only later ones refine it."""
    tolerance_pct: Positive
    """A point this far off its neighbours' line is refined."""
    held_out_widths: Annotated[int, Field(ge=10, le=10_000)]
    """Further widths that only test the table."""
    fit_nets: Annotated[int, Field(ge=4, le=1000)]
    """Random whole nets of each kind that the calibration is fitted on; every second has less than full depth."""
    held_out_nets: Annotated[int, Field(ge=4, le=1000)]
    """Random whole nets of each kind that test the predictor; every second has less than full depth."""
    builds: Annotated[int, Field(ge=1, le=8)]
    """Processes that take turns; the gate compares them."""
    rounds: Annotated[int, Field(ge=3, le=10_000)]
    """Times that each build times each subject of a phase."""
    warm_calls: CountOrZero
    """Untimed calls right before each timed one."""
    cache: Literal["warm", "cold"]
    """Cold clears a GPU's second-level cache before each timed call."""
    tf32: bool = True
    """Let a GPU compute fp32 convolutions in TF32, as torch does by default; means nothing on a CPU or in bf16."""
    canary_band_pct: Positive
    """Samples are rejected when the reference op beside them is this much slower than this machine's best."""
    references: tuple[BaselineClassifier, ...] = ()
    """Nets of the literature that are timed with the table: those that relative targets name."""
    limits: GateLimits
    allow_noisy: bool
    """Write a profile that failed the noise gate, marked; else it is refused (exit 3)."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    """Level of the prediction interval."""
    seed: Seed

    @property
    def named_file(self) -> Path | None:
        """The profile that is taken instead of measuring; `None` where this machine is measured."""
        return Path(self.file) if self.source == "file" and self.file is not None else None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.source == "file" and self.file is None:
            raise ValueError("file is null: source file needs the path of a profile made by dcnas profile")
        if len(set(self.references)) != len(self.references):
            raise ValueError(f"references repeat: {list(self.references)}")
        if self.references and self.source == "measure" and self.runtime in ("onnxruntime", "simulated"):
            raise ValueError(f"references are timed by torch, and runtime is {self.runtime}: set references: []")
        if self.precision == "bf16" and self.runtime == "onnxruntime":
            raise ValueError("onnxruntime runs fp32 here: set precision: fp32")
        return self

"""The typed form of params.yaml: one section per pipeline stage, and `device`, `noise`, `models`, `runs`."""

import difflib
import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from dcnas_harness.errors import BadInputError

MOST = 1_000_000_000
"""The largest count: beyond it a number is a slip of the finger."""
Count = Annotated[int, Field(ge=1, le=MOST)]
CountOrZero = Annotated[int, Field(ge=0, le=MOST)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
Precision = Literal["auto", "fp32", "bf16"]


def _no_boolean(value: Any) -> Any:
    """Refuse `true`, which pydantic takes for the 1 of a `Literal` even where it is strict."""
    if isinstance(value, bool):
        raise ValueError("should be a number")
    return value


class Section(BaseModel):
    """A part of params.yaml: immutable, no unknown keys, no silent conversion."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class DeviceParams(Section):
    """Where the nets run."""

    kind: Literal["auto", "cpu", "cuda"]
    """`auto` takes the first CUDA device, else the CPU."""
    threads: Annotated[int, Field(ge=1, le=1024)]
    """CPU threads of every pipeline stage: a parameter, because results depend on it."""


class NoiseParams(Section):
    """Additive white Gaussian noise, in units of the [0, 1] pixel range."""

    sigmas: Annotated[tuple[Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)], ...], Field(min_length=1)]
    """Noise levels of training and testing (paper, Sec. 3: eleven values evenly spaced on [0, 1])."""
    clip: bool
    """Clip the noisy image to [0, 1]; the protocol's default is not to."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.sigmas)) != len(self.sigmas):
            raise ValueError(f"noise levels repeat: {list(self.sigmas)}")
        return self


class SplitCounts(Section):
    """Scenes of each split."""

    train: Count
    validation: Count
    test: Count


class DigitsParams(Section):
    """Two-digit scenes (paper, Sec. 3)."""

    source: Literal["mnist", "optdigits"]
    """`mnist` reads the four original files; `optdigits` is scikit-learn's embedded set, up-sampled."""
    root: str | None
    """Folder with MNIST's four .gz files (or MNIST/raw below it); unused by `optdigits`."""
    download: bool
    """Let torchvision fetch MNIST into `root` when it is not there."""
    scenes: SplitCounts
    size: Annotated[int, Field(ge=56, le=4096)]
    """Height and width of a scene in pixels; 56 is the least that always holds two digits of 28."""
    background: tuple[Fraction, Fraction]
    """Range of the constant background gray."""
    seed: Seed

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.background[0] > self.background[1]:
            raise ValueError(f"background range is empty: {list(self.background)}")
        if self.source == "mnist" and self.root is None:
            raise ValueError("root is null: source mnist needs the folder of MNIST's four .gz files")
        return self


class GenerateDataParams(Section):
    """Section of the pipeline stage generate_data."""

    digits: DigitsParams


class UNetSpec(Section):
    """A UNet {d, b, m, c} (paper, Fig. 2)."""

    depth: Annotated[int, Field(ge=1, le=8)]
    """Number of resolution levels, the bottleneck included (d)."""
    base: Annotated[int, Field(ge=1, le=512)]
    """Width of the first level (b)."""
    multiplier: Annotated[float, Field(ge=1, le=4)]
    """Width of a level over that of the level above (m)."""
    convs: Annotated[int, Field(ge=1, le=8)]
    """3x3 convolutions per level (c)."""


class DenoiserSpec(Section):
    """A separate denoiser (paper, Suppl. A)."""

    kind: Literal["denoiser"]
    unet: UNetSpec
    epochs: Count | None = None
    """Overrides `retrain.epochs` for this model."""


class ClassifierSpec(Section):
    """A separate digit classifier (paper, Suppl. A), on crops of clean or of noisy scenes."""

    kind: Literal["classifier"]
    classifier: Literal["conv", "mbconv"]
    images: Literal["clean", "noisy"]
    epochs: Count | None = None
    """Overrides `retrain.epochs` for this model."""


class JointSpec(Section):
    """A joint model, DC-Net (paper, Sec. 3.1): classifier on the shared encoder, or after the denoiser."""

    kind: Literal["joint"]
    join: Literal["integrated", "sequential"]
    unet: UNetSpec
    epochs: Count | None = None
    """Overrides `retrain.epochs` for this model."""


ModelSpec = Annotated[DenoiserSpec | ClassifierSpec | JointSpec, Field(discriminator="kind")]


class RunsParams(Section):
    """Which models run, and with which seeds."""

    models: Annotated[tuple[Name, ...], Field(min_length=1)]
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for key, values in (("models", self.models), ("seeds", self.seeds)):
            if len(set(values)) != len(values):
                raise ValueError(f"{key} repeat: {list(values)}")
        return self


class LossParams(Section):
    """Eq. 1 of the paper: `cross_entropy` * L_CE + `charbonnier` * L_Char."""

    cross_entropy: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    charbonnier: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    charbonnier_epsilon: Positive
    """Epsilon of sqrt(error^2 + epsilon^2), in units of the [0, 1] pixel range."""

    @model_validator(mode="after")
    def _not_zero(self) -> Self:
        if self.cross_entropy == self.charbonnier == 0:
            raise ValueError("both loss weights are 0: nothing would be trained")
        return self


class PlateauParams(Section):
    """Learning-rate schedule: reduce on a plateau of the validation loss."""

    factor: Annotated[float, Field(gt=0, lt=1)]
    patience: CountOrZero
    """Epochs without improvement before the rate falls."""
    minimum: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class RetrainParams(Section):
    """Section of the pipeline stage retrain."""

    epochs: Count
    batch_size: Annotated[int, Field(ge=2, le=MOST)]
    """Scenes per step; at least 2, because batch normalisation needs more than one value."""
    learning_rate: Positive
    """Adam's."""
    loss: LossParams
    plateau: PlateauParams
    recalibrate: CountOrZero
    """Training scenes that batch norm's statistics are computed on after the last step, rounded up to batches of 16; 0: none (paper)."""
    precision: Precision
    """`auto`: bf16 autocast where the device multiplies bf16 in hardware (CUDA >= 8.0, AMX), else fp32."""
    memory_format: Literal["auto", "channels_last", "contiguous"]


class LatencyParams(Section):
    """How evaluate times a whole model."""

    measure: bool
    batch: Count
    """Images per forward pass (paper: 32)."""
    warmup: CountOrZero
    """Passes before timing (paper: 100)."""
    repeats: Annotated[int, Field(ge=3, le=MOST)]
    """Timed passes (paper: 1000); up to three times as many where fewer than five are accepted."""
    canary_band_pct: Positive
    """Passes are rejected when the reference op beside them is this much slower than this machine's best."""


class GateLimits(Section):
    """Limits of the noise gate; beyond one of them a latency profile is refused, or marked where `allow_noisy` says so."""

    builds_differ_pct: Positive
    """Two interleaved builds of the same entries, median difference."""
    accepted_pct: Annotated[float, Field(ge=0, le=100)]
    """Least share of samples that must be accepted."""
    drift_pct: Positive
    """From the first third of the rounds to the last."""
    others_pct: Positive
    """Processor time that other programs may take."""
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
    width_multiple: Annotated[Literal[1, 2, 4, 8, 16, 32], BeforeValidator(_no_boolean)]
    """Widths that a search may give a block are multiples of this; the table interpolates the others."""
    most_entries: Annotated[int, Field(ge=470, le=100_000)]
    """Most measured points of the plan, whose beginning takes up to 468; the published recipe measures 2,802 (every eighth width)."""
    generations: Annotated[int, Field(ge=1, le=20)]
    """Most refinements of the plan."""
    tolerance_pct: Positive
    """A point this far off its neighbours' line is refined."""
    held_out_widths: Annotated[int, Field(ge=10, le=10_000)]
    """Further widths that only test the table."""
    fit_nets: Annotated[int, Field(ge=4, le=1000)]
    """Random whole nets of each kind that the calibration is fitted on."""
    held_out_nets: Annotated[int, Field(ge=4, le=1000)]
    """Random whole nets of each kind that test the predictor."""
    builds: Annotated[int, Field(ge=1, le=8)]
    """Processes that take turns; the gate compares them."""
    rounds: Annotated[int, Field(ge=3, le=10_000)]
    """Times that each build times each subject of a phase."""
    warm_calls: CountOrZero
    """Untimed calls right before each timed one."""
    cache: Literal["warm", "cold"]
    """Cold clears a GPU's second-level cache before each timed call."""
    canary_band_pct: Positive
    """Samples are rejected when the reference op beside them is this much slower than this machine's best."""
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
        if self.precision == "bf16" and self.runtime == "onnxruntime":
            raise ValueError("onnxruntime runs fp32 here: set precision: fp32")
        return self


class PanelParams(Section):
    """The panel of restored images (Figure 3)."""

    scenes: Annotated[int, Field(ge=1, le=16)]
    sigmas: Annotated[tuple[float, ...], Field(min_length=1)]
    """Noise levels shown; each must be one of `noise.sigmas`."""


class EvaluateParams(Section):
    """Section of the pipeline stage evaluate."""

    batch_size: Count
    image_size: Annotated[int, Field(ge=32, le=4096)]
    """Height and width in pixels of the image whose cost and latency are reported (paper, Sec. 3: 96)."""
    noise_seed: Seed
    """With the image and the level, all that the test noise depends on."""
    precision: Precision
    latency: LatencyParams
    panel: PanelParams


class TabulateParams(Section):
    """Section of the pipeline stage tabulate."""

    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    """Level of the intervals over seeds."""


class Params(Section):
    """The whole of params.yaml."""

    preset: Name
    """Label of this setting in tables; `dcnas preset NAME` replaces params.yaml by a stored one."""
    device: DeviceParams
    noise: NoiseParams
    runs: RunsParams
    models: dict[Name, ModelSpec]
    generate_data: GenerateDataParams
    profile_latency: ProfileLatencyParams
    retrain: RetrainParams
    evaluate: EvaluateParams
    tabulate: TabulateParams

    @model_validator(mode="after")
    def _references_exist(self) -> Self:
        for name in self.runs.models:
            if name not in self.models:
                raise ValueError(
                    f"runs.models names {name!r}, which models does not define{_did_you_mean(name, self.models)}"
                )
        unknown = [sigma for sigma in self.evaluate.panel.sigmas if sigma not in self.noise.sigmas]
        if unknown:
            raise ValueError(f"evaluate.panel.sigmas has {unknown}, not in noise.sigmas {list(self.noise.sigmas)}")
        scenes = self.generate_data.digits.scenes
        for key, value, split, most in (
            ("retrain.batch_size", self.retrain.batch_size, "train", scenes.train),
            ("evaluate.panel.scenes", self.evaluate.panel.scenes, "test", scenes.test),
        ):
            if value > most:
                raise ValueError(f"{key} is {value}, more than generate_data.digits.scenes.{split}, which is {most}")
        return self


def load_params(path: Path) -> Params:
    """
    Read and check params.yaml (YAML 1.2, as DVC reads it).

    Raises:
        BadInputError: The file is missing, not YAML, has unknown or repeated keys, wrong types or values out of range.
    """
    values = read_yaml(path)
    try:
        text = json.dumps(values)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInputError(
            f"{path} holds what no parameter can be (a date, a binary, a set, a loop or deep nesting): {error}",
            remedy=f"write plain numbers, strings, lists and maps in {path.name}; presets/ holds valid ones",
        ) from error
    try:
        return Params.model_validate_json(text)
    except ValidationError as error:
        problems = "\n".join(f"  {path.name}: {_problem(detail)}" for detail in error.errors(include_url=False))
        raise BadInputError(
            f"{path} is not a valid parameter file:\n{problems}",
            remedy=f"correct {path.name}; presets/ holds valid ones",
        ) from error


def read_yaml(path: Path) -> Any:
    """
    Read a YAML 1.2 file.

    Raises:
        BadInputError: The file is missing, repeats a key or is not YAML.
    """
    try:
        return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise BadInputError(f"{path} does not exist.", remedy="run: dcnas preset demo") from error
    except (YAMLError, ValueError, TypeError, RecursionError) as error:
        raise BadInputError(
            f"{path} cannot be read as YAML 1.2:\n{error}", remedy="correct the line named above"
        ) from error
    except OSError as error:
        raise BadInputError(f"{path} cannot be read: {error.strerror}.", remedy="put a params.yaml there") from error


def digest_of(value: BaseModel) -> str:
    """Return the SHA-256, in hex, of a section's canonical JSON."""
    canonical = json.dumps(value.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _problem(detail: Any) -> str:
    tags = {"denoiser", "classifier", "joint"}
    keys = [
        str(key) for i, key in enumerate(detail["loc"]) if not (i == 2 and key in tags and detail["loc"][0] == "models")
    ]
    place = ".".join(keys) or "the file"
    value, message = detail["input"], detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        return f"{place}: unknown key{_did_you_mean(keys[-1], _known_keys(keys[:-1]))}"
    if detail["type"] == "missing":
        return f"{place}: missing"
    if isinstance(value, dict):
        return f"{place}: {message}"
    return f"{place} = {value!r}: {message}"


def _known_keys(path: list[str]) -> list[str]:
    model: Any = Params
    if path[:1] == ["models"]:
        return ["kind", "join", "unet", "classifier", "images", "epochs", *UNetSpec.model_fields]
    for key in path:
        model = model.model_fields[key].annotation
    return list(model.model_fields)


def _did_you_mean(word: str, known: Any) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"

"""Records on photos, search logs and derived genotypes made by hand, and the pipeline stage run on them."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dcnas_harness.files import write_json
from dcnas_latency.files import read_profile
from dcnas_schema.genotype import Genotype, uniform_genotype
from dcnas_schema.params import Params
from dcnas_schema.parquet import with_metadata, write_parquet
from dcnas_schema.photo_models import SpaceSpec, task_of
from dcnas_schema.photo_records import (
    PHOTO_PANEL,
    PHOTO_RECORD,
    DrawnSubnet,
    ModelLatency,
    PhotoEvaluationMetadata,
    PhotoPanelMetadata,
)
from dcnas_schema.provenance import DeviceCard, DeviceState, Provenance
from dcnas_schema.records import MeasuredLatency, Protocol
from dcnas_schema.search_log import (
    SEARCH_LOG,
    DerivedGenotype,
    NetCost,
    PredictedLatency,
    Reachable,
    SearchMetadata,
)
from dcnas_schema.space import OPS, PLACES, width_bounds
from dcnas_tabulate import figures, photo_figures, photo_panel, search_figures
from dcnas_tabulate.drawing import THEMES
from dcnas_tabulate.photo_job import PhotoSources, tabulate_photos
from dcnas_tabulate.photo_layout import PhotoTables

CLASSES = ("cat", "dog", "a very long name of an owl")
SIGMAS = (0.0, 0.5, 1.0)
Level = Mapping[str, float]


def quality(**values: float) -> list[dict[str, float]]:
    """Return three noise levels of a model: the values at sigma 0, falling with the noise."""
    steps = {"psnr_db": 6.0, "ssim": 0.1, "top1_pct": 10.0, "top5_pct": 5.0}
    return [{name: value - level * steps[name] for name, value in values.items()} for level in range(len(SIGMAS))]


def measured(median_ms: float, noise: Sequence[str] = ()) -> MeasuredLatency:
    """Return a latency whose 5th percentile lies 0.1 ms below its median, the 95th 0.2 ms above."""
    return MeasuredLatency(
        batch=32, height=32, width=32, precision="fp32", memory_format="channels_last", warmup=2, repeats=10,
        median_ms=median_ms, p5_ms=median_ms - 0.1, p95_ms=median_ms + 0.2, device_median_ms=None, raw=10, kept=9,
        noise=tuple(noise), before=DeviceState(load_average=0.1), after=DeviceState(load_average=0.2),
    )  # fmt: skip


class PhotoWorkshop:
    """A folder of records, searches and genotypes made by hand, and the stage run on them."""

    def __init__(
        self,
        root: Path,
        params: Params,
        provenance: Callable[..., Provenance],
        profile: Path,
        photos: Path,
        project: Path,
    ) -> None:
        self.root, self.params, self._provenance = root, params, provenance
        self.sources = PhotoSources(
            records=root / "data/evaluate_photos",
            searches=root / "data/search_supernet",
            genotypes=root / "data/derive_genotype",
            photos=photos,
            profile=profile,
            reference=project / "data/reference/paper_tables.csv",
        )
        self._setting = read_profile(profile)[1].setting.model_copy(
            update={"runtime": "torch_eager", "threads": 2, "precision": "fp32", "memory_format": "channels_last"}
        )

    def record(  # noqa: PLR0913 # the facts of a record
        self,
        model: str,
        seed: int = 0,
        *,
        levels: Sequence[Level],
        median_ms: float | None = None,
        predicted_ms: float | None = None,
        not_comparable: str | None = None,
        noise: Sequence[str] = (),
        genotype: Genotype | None = None,
        card: DeviceCard | None = None,
        profile_card: DeviceCard | None = None,
        inputs: Mapping[str, str] | None = None,
        macs: int = 3_000_000,
        classes: Sequence[str] = CLASSES,
        search_seed: int | None = None,
        epochs: int = 2,
        exact: int | None = None,
        **latency_facts: Any,
    ) -> Path:
        """Write record and panel of one run; return its folder."""
        spec = self.params.photo_models[model]
        if isinstance(spec, SpaceSpec) and genotype is None:
            genotype = uniform_genotype("k3_e3", 2)
        drawn = isinstance(spec, SpaceSpec) and spec.random is not None
        made = self._provenance(item=f"{model}-{seed}", seed=seed)
        made = made.model_copy(update={"inputs": dict(inputs or {}), "device": card or made.device})
        latency = ModelLatency(
            measured=None if median_ms is None else measured(median_ms, noise).model_copy(update=latency_facts),
            setting=self._setting,
            profile_card=profile_card or card or made.device,
            predicted=None
            if predicted_ms is None
            else PredictedLatency(ms=predicted_ms, low_ms=predicted_ms - 0.5, high_ms=predicted_ms + 0.5),
            not_comparable=not_comparable,
        )
        metadata = PhotoEvaluationMetadata(
            model=model, seed=seed, spec=spec, genotype=genotype, search_seed=seed if search_seed is None else search_seed,
            drawn=DrawnSubnet(target_ms=5.0, predicted_ms=5.01, draws=7) if drawn else None,
            classes=tuple(classes), epochs=epochs, image_size=32,
            protocol=Protocol(sigmas=SIGMAS, clip_noisy=False, noise_seed=0, precision="fp32"),
            cost=NetCost(macs=macs, parameters=12_345), latency=latency, provenance=made,
        )  # fmt: skip
        empty = dict.fromkeys(PHOTO_RECORD.names)
        rows = [
            {
                **empty,
                "sigma": s,
                "images": 5,
                "noisy_psnr_db": 12.0 if s else None,
                "noisy_ssim": 0.9 - s / 2,
                "exact": exact,
                **values,
            }
            for s, values in zip(SIGMAS, levels, strict=True)
        ]
        folder = self.sources.records / model / str(seed)
        batch = pa.RecordBatch.from_pylist(rows, schema=PHOTO_RECORD)
        write_parquet(folder / "record.parquet", with_metadata(PHOTO_RECORD, metadata), [batch])
        self._panel(folder, model, seed, made)
        return folder

    def _panel(self, folder: Path, model: str, seed: int, made: Provenance) -> None:
        task, generator = task_of(self.params.photo_models[model]), np.random.Generator(np.random.PCG64(seed))
        rows = []
        for sigma in SIGMAS[1:]:
            for image in range(3):
                clean = np.full((32, 32, 3), 70.0)
                clean[..., image] += 4 * np.arange(32)
                noise = 128 * sigma * generator.standard_normal(clean.shape)
                pictures = {"clean": clean, "noisy": clean + noise, "restored": clean + noise / 5}
                content = {name: pixels.clip(0, 255).astype(np.uint8).tobytes() for name, pixels in pictures.items()}
                rows.append(
                    {
                        "image": image, "sigma": sigma, "height": 32, "width": 32, **content, "label": image,
                        "restored": None if task == "classify" else content["restored"],
                        "predicted": None if task == "denoise" else (image if sigma < 1 else 2),
                    }
                )  # fmt: skip
        metadata = PhotoPanelMetadata(model=model, seed=seed, classes=CLASSES, provenance=made)
        batch = pa.RecordBatch.from_pylist(rows, schema=PHOTO_PANEL)
        write_parquet(folder / "panel.parquet", with_metadata(PHOTO_PANEL, metadata), [batch])

    def search(
        self, search: str, seed: int = 0, *, epochs: int = 12, restless: float = 0.2, median_ms: float | None = 4.2,
        inputs: Mapping[str, Mapping[str, str]] | None = None,
    ) -> DerivedGenotype:  # fmt: skip
        """Write log and genotype of one search, whose alphas walk at random by `restless` an epoch."""
        spec, inputs = self.params.searches[search], inputs or {}
        made = self._provenance(stage="search_supernet", item=f"{search}-{seed}", seed=seed)
        metadata = SearchMetadata(
            search=search, seed=seed, spec=spec, params=self.params.search_supernet, ops=spec.candidates,
            target_ms=4.0, reference_ms=None, reachable=Reachable(least_ms=1.0, greatest_ms=9.0),
            setting=self._setting, accuracy=None, interval_pct=5.0, precision="fp32", memory_format="channels_last",
            form="plain", weight_images=12, architecture_images=6, classes=3,
            provenance=made.model_copy(update={"inputs": dict(inputs.get("search", {}))}),
        )  # fmt: skip
        rows = list(
            _search_rows(spec.candidates, epochs, restless, np.random.Generator(np.random.PCG64(seed)), spec.beta)
        )
        folder = self.sources.searches / search / str(seed)
        batch = pa.RecordBatch.from_pylist(rows, schema=SEARCH_LOG)
        write_parquet(folder / "search.parquet", with_metadata(SEARCH_LOG, metadata), [batch])
        derived = DerivedGenotype(
            search=search, seed=seed, spec=spec, genotype=uniform_genotype("k3_e3", 2), target_ms=4.0, bound=spec.kind,
            setting=self._setting,
            predicted={spec.kind: PredictedLatency(ms=4.1, low_ms=3.9, high_ms=4.3)},
            cost={spec.kind: NetCost(macs=5_000_000, parameters=54_321)},
            measured=None if median_ms is None else measured(median_ms),
            not_measured="derive_genotype.measure is off" if median_ms is None else None,
            provenance=self._provenance(stage="derive_genotype", item=f"{search}-{seed}", seed=seed).model_copy(
                update={"inputs": dict(inputs.get("derive", {}))}
            ),
        )  # fmt: skip
        path = self.sources.genotypes / search / str(seed) / "genotype.json"
        write_json(path, derived.model_dump(mode="json"))
        return derived

    def run(self, out: str = "results", **changes: Any) -> Path:
        """Run the stage, with changes to what it takes from the parameters; return the folder of its results."""
        settings = PhotoTables.of(self.params)
        settings = PhotoTables(
            **{name: changes.get(name, getattr(settings, name)) for name in PhotoTables.__dataclass_fields__}
        )
        tabulate_photos(settings, self.sources, self.root / out)
        return self.root / out

    def all_rows(self, seeds: Sequence[int] = (0, 1, 2)) -> None:
        """Write records of every model of the demo preset, as if all ran, DC-NAS S being better than its rivals in every seed."""
        for number, (model, spec) in enumerate(self.params.photo_models.items()):
            for seed in seeds:
                good = 2.0 if model == "dc_nas_s" else 0.05 * number
                shift = good + 1.5 * seed
                values = {"psnr_db": 30 + shift, "ssim": 0.8 + shift / 100} if task_of(spec) != "classify" else {}
                values |= {"top1_pct": 60 + shift, "top5_pct": 80 + shift} if task_of(spec) != "denoise" else {}
                space = isinstance(spec, SpaceSpec)
                predictable = space and getattr(spec, "decoder", "conv") == "conv"
                median = 4.0 + 0.37 * number
                self.record(
                    model, seed, levels=quality(**values), median_ms=median + 0.01 * seed, macs=3_000_000 + 10_000 * number,
                    predicted_ms=1.02 * median if predictable else None,
                )  # fmt: skip


def _search_rows(ops: Sequence[str], epochs: int, restless: float, generator: np.random.Generator, beta: str) -> Any:
    logs = np.zeros((len(PLACES), len(ops)))
    widths = [width_bounds(place.in_channels, OPS[op])[0] for place in PLACES for op in ops]  # type: ignore[index] # names of ops, as plain str
    for epoch in range(1, epochs + 1):
        if epoch > 1:
            logs = logs + restless * generator.standard_normal(logs.shape) + 0.08 * (np.arange(len(ops)) == 1)
        depths = [sum(place.stage == stage for place in PLACES) for stage in range(1, 7)]
        if beta == "sink":
            depths[4] = 3
        yield {
            "epoch": epoch, "weight_rate": 0.02, "architecture_rate": None, "temperature": 5.0, "weight_loss": 1.0,
            "task_loss": None, "latency_loss": None, "sampled_ms": None, "expected_ms": 4.0, "derived_ms": 4.0,
            "log_alphas": (logs - np.log(np.exp(logs).sum(1, keepdims=True))).ravel().tolist(),
            "log_betas": [0.0] * 18 if beta == "sink" else None, "widths": widths,
            "choices": logs.argmax(1).tolist(), "depths": depths,
        }  # fmt: skip


@pytest.fixture(scope="session")
def new_photo_workshop(
    tiny_params: Callable[..., Params],
    provenance: Callable[..., Provenance],
    tiny_profile: Path,
    tiny_photos: Path,
    project: Path,
) -> Callable[..., PhotoWorkshop]:
    """A function that opens a workshop in a folder, with changes to the parameters."""

    def make(root: Path, changes: Mapping[str, Any] | None = None) -> PhotoWorkshop:
        return PhotoWorkshop(root, tiny_params(changes), provenance, tiny_profile, tiny_photos, project)

    return make


@pytest.fixture
def photo_workshop(tmp_path: Path, new_photo_workshop: Callable[..., PhotoWorkshop]) -> PhotoWorkshop:
    """An empty workshop of the smoke preset."""
    return new_photo_workshop(tmp_path)


@pytest.fixture
def one_theme(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that look at no theme: figures are drawn light alone. The dark ones are drawn by the same code."""
    for module in (figures, photo_figures, photo_panel, search_figures):
        monkeypatch.setattr(module, "THEMES", {"light": THEMES["light"]})


def read_cells(results: Path, table: str) -> list[dict[str, Any]]:
    """Return the cells of a table as its map holds them."""
    cells: list[dict[str, Any]] = json.loads((results / f"{table}.cells.json").read_text(encoding="utf-8"))["cells"]
    return cells

"""Searches of seconds: a dozen pictures of 36 pixels, a latency profile by formula, one thread."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from dcnas_latency.files import write_profile
from dcnas_latency.plan import curves_of
from dcnas_latency.simulated import Law, part_ms, simulated_card
from dcnas_schema.genotype import parts_of, uniform_genotype
from dcnas_schema.keys import Part
from dcnas_schema.latency import (
    Accuracy,
    Calibration,
    Entry,
    Gate,
    LatencyProtocol,
    LatencySetting,
    PlanReport,
    ProfileMetadata,
)
from dcnas_schema.params import DeviceParams
from dcnas_schema.parquet import with_metadata, write_parquet
from dcnas_schema.photo_params import JitterParams, PhotoViewParams
from dcnas_schema.photos import PHOTOS, PhotosMetadata
from dcnas_schema.provenance import Provenance
from dcnas_schema.search_params import SearchSpec, SearchSupernetParams, TargetSpec
from dcnas_schema.space import NET_KINDS, OP_SETS

SIZE, CLASSES = 36, 3
LAW = Law()
SCALE = {"c_nas": 0.97, "d_nas": 0.95, "dc_nas": 0.9}
OVERHEAD = {"c_nas": 0.05, "d_nas": 0.1, "dc_nas": 0.2}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One thread: so small a net gains nothing from more, and the tests do not wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def profile(tmp_path_factory: pytest.TempPathFactory, provenance: Callable[..., Provenance]) -> Path:
    """A latency profile of a simulated device, by the formula, calibrated unevenly; images of 64 pixels."""
    size = {"height": 64, "width": 64}
    parts = [
        Part(curve.key, width)
        for curve in curves_of(OP_SETS[8], **size, width_multiple=8)
        for width in curve.widths[:: max(len(curve.widths) // 4, 1)] + curve.widths[-1:]
    ]
    joint = parts_of("dc_nas", uniform_genotype("k3_e3", 3), classes=10, **size)
    parts += [part for part in joint if part.mid_channels is None]
    entries = tuple(_entry(part) for part in dict.fromkeys(parts))
    path = tmp_path_factory.mktemp("latency") / "profile.parquet"
    write_profile(path, entries, _metadata(len(entries), provenance()))
    return path


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 12 pictures to train weights on and 8 for the architecture, of three classes; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("photos")
    for split, count in (("train", 12), ("validation", 8)):
        write_pictures(folder / f"{split}.parquet", split, count)
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, int], Path]:
    """A function that gives a folder with so many pictures to train weights on and for the architecture."""

    def make(weights: int, architecture: int) -> Path:
        folder = tmp_path_factory.mktemp("pictures")
        for split, count in (("train", weights), ("validation", architecture)):
            write_pictures(folder / f"{split}.parquet", split, count)
        return folder

    return make


@pytest.fixture(scope="session")
def params() -> Callable[..., SearchSupernetParams]:
    """A function that gives the stage's parameters at a tiny size: three epochs, the first a warm-up."""

    def make(**changes: Any) -> SearchSupernetParams:
        view = PhotoViewParams(
            size=32,
            scale=(0.5, 1.0),
            ratio=(0.75, 1.25),
            flip=0.5,
            jitter=JitterParams(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1),
            centre_share=1.0,
            memory_mb=10,
        )
        return SearchSupernetParams(**{"epochs": 3, "warmup_epochs": 1, "batch_size": 4, "view": view, **changes})

    return make


@pytest.fixture(scope="session")
def spec() -> Callable[..., SearchSpec]:
    """A function that gives a search for a classifier of 1.83 ms among four ops."""

    def make(**changes: Any) -> SearchSpec:
        values: dict[str, Any] = {
            "ops": 4,
            "beta": "removed",
            "images": "clean",
            "loss": "classification",
            "bound": "classifier",
            "target": TargetSpec(ms=1.83),
            "width_multiple": 8,
            **changes,
        }
        return SearchSpec(**values)

    return make


@pytest.fixture(scope="session")
def job(
    photos: Path, profile: Path, params: Callable[..., SearchSupernetParams], spec: Callable[..., SearchSpec]
) -> Callable[..., Any]:
    """A function that gives a job of the stage."""
    from dcnas_search_supernet.job import Job, Settings

    def make(scratch: Path, *, seed: int = 0, photos: Path = photos, params_: Any = None, **changes: Any) -> Any:
        settings = Settings(
            device=DeviceParams(kind="cpu", threads=1),
            spec=spec(**changes),
            search_supernet=params_ or params(),
        )
        return Job(search="tiny", seed=seed, settings=settings, photos=photos, profile=profile, scratch=scratch)

    return make


@pytest.fixture(scope="session")
def finished(job: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished search's outputs; tests leave it as it is."""
    from dcnas_search_supernet.job import search_job

    folder = tmp_path_factory.mktemp("finished")
    search_job(job(folder / "scratch"), folder / "out")
    return folder / "out"


def write_pictures(path: Path, split: str, count: int) -> None:
    """Write `count` pictures of three classes, each of its own colour beneath noise."""
    generator = np.random.default_rng(count)
    rows = []
    for number in range(count):
        label = number % CLASSES
        pixels = generator.integers(0, 128, (SIZE, SIZE, 3), dtype=np.uint8)
        pixels[..., label] += 127
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        row = {"image": buffer.getvalue(), "label": label, "height": SIZE, "width": SIZE, "name": f"{number}.png"}
        rows.append({**row, "box": [0, 0, SIZE, SIZE]})
    metadata = PhotosMetadata.model_validate(
        {
            "split": split,
            "source": "parquet",
            "classes": [f"class{label}" for label in range(CLASSES)],
            "images": count,
            "per_class": [len(range(label, count, CLASSES)) for label in range(CLASSES)],
            "size": SIZE,
            "seed": 0,
            "refused": {},
            "repaired": {},
            "refused_files": [],
            "content_sha256": "0" * 64,
        }
    )
    write_parquet(path, with_metadata(PHOTOS, metadata), [pa.RecordBatch.from_pylist(rows, schema=PHOTOS)])


def _entry(part: Part) -> Entry:
    ms = part_ms(part, LAW)
    figures = dict.fromkeys(("median_ms", "low_ms", "high_ms", "min_ms", "p90_ms"), ms)
    return Entry(
        key=part.key,
        mid_channels=part.mid_channels,
        role="plan",
        mad_ms=0.0,
        raw=8,
        kept=8,
        builds_differ_pct=0.0,
        **figures,
    )


def _metadata(entries: int, provenance: Provenance) -> ProfileMetadata:
    setting = {"batch": 1, "precision": "fp32", "memory_format": "channels_last", "height": 64, "width": 64}
    accuracy = dict.fromkeys(
        ("mape_pct", "table_mape_pct", "bias_pct", "worst_pct", "within_5_pct", "within_10_pct"), 1.0
    )
    ranks = dict.fromkeys(("spearman", "kendall", "inside_interval_pct"), 1.0)
    return ProfileMetadata(
        device=simulated_card(1),
        setting=LatencySetting(runtime="simulated", classes=10, threads=1, **setting),
        protocol=LatencyProtocol(
            in_context=True,
            processes=1,
            rounds=3,
            warm_calls=0,
            clock="simulated",
            canary_band_pct=15.0,
            canary_reference_ms=0.3,
            rejected={},
            seconds=0.0,
        ),
        states=(),
        plan=PlanReport(
            entries=entries,
            held_out=0,
            width_multiple=8,
            modulus=16,
            modulus_gain_pct=5.0,
            mean_error_pct=0.0,
            bias_pct=0.0,
            worst_error_pct=0.0,
        ),
        calibration=Calibration(
            scale=SCALE,
            overhead_ms=OVERHEAD,
            spread_pct=dict.fromkeys(SCALE, 1.0),
            interval_pct=dict.fromkeys(SCALE, 2.5),
            confidence=0.95,
            fitted_on=12,
            fitted_on_full_depth=12,
        ),
        accuracy=tuple(Accuracy(kind=kind, nets=4, full_depth=4, **accuracy, **ranks) for kind in NET_KINDS),
        nets=(),
        gate=Gate(checks=(), allow_noisy=True),
        provenance=provenance,
    )

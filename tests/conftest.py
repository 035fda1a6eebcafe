"""
Shared by all test folders: golden numbers, a tiny set of parameters, scenes and records made for it, small and read-only disks.

Rooms that jaxtyping checks are imported inside the fixtures: a conftest is loaded before the checking is switched on.
"""

import contextlib
import copy
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from ruamel.yaml import YAML

from dcnas_harness.process import run_main
from dcnas_schema.genotype import Genotype, uniform_genotype
from dcnas_schema.params import Params, read_yaml
from dcnas_schema.parquet import with_metadata, write_parquet
from dcnas_schema.photos import PHOTOS, PhotosMetadata
from dcnas_schema.provenance import DeviceCard, DeviceState, Provenance
from dcnas_schema.records import (
    PANEL,
    RECORD,
    Cost,
    EvaluationMetadata,
    MeasuredLatency,
    PanelMetadata,
    Protocol,
)
from dcnas_schema.search_log import DerivedGenotype, PredictedLatency
from dcnas_schema.search_params import SearchSpec, TargetSpec

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
"""
Read by OpenMP when torch is imported, here and in every process that a test starts.

Its threads else spin while they wait; beside another busy program the tests of tests/nets take six times the processor time so.
"""
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
"""Workers share the cores: a thread each. A test, or a process that it starts, that needs more asks for them."""
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
"""A shell lets a command in the background ignore Ctrl-C, and so would every process that a test starts and interrupts."""
TESTS = Path(__file__).resolve().parent
LONGEST_FIRST = ("pipeline", "flows", "retrain", "tabulate", "nets", "profile_latency")
"""Under pytest-xdist these folders go first, so that no worker is left with a long file when the others are done."""
TINY = {
    "device.threads": 1,
    "generate_data.digits.scenes": {"train": 16, "validation": 4, "test": 5},
    "retrain.epochs": 1,
    "retrain.batch_size": 4,
    "retrain.precision": "fp32",
    "evaluate.precision": "fp32",
    "noise.sigmas": [0.0, 0.25, 0.5],
    "evaluate.panel.sigmas": [0.5],
}
"""Changes to the smoke preset that make a run of one epoch take less than a second."""


FORKS = """
import json, os, signal, socket, sys, time, traceback
from pathlib import Path

import torch

from dcnas_harness.seat import Seat

os.environ["GLOO_SOCKET_IFNAME"] = "lo"
torch.set_num_threads(1)


def together(processes, act):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free.getsockname()[1]))
    children = [start(Seat(rank=rank, size=processes, local_rank=rank), act) for rank in range(processes)]
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def start(seat, act):
    child = os.fork()
    if child == 0:
        os.dup2(2, 1)
        code = 99
        try:
            act(seat)
            code = 0
        except BaseException as error:
            traceback.print_exc()
            code = int(getattr(error, "exit_code", 99))
        finally:
            sys.stderr.flush()
            os._exit(code)
    return child
"""
"""
What a test's script of several processes begins with: they are forks of one that has imported torch, and join by gloo on this machine.

`together(2, act)` has each call `act(seat)`, and returns how they ended: 0, or the exit code of the error's class.
"""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """
    Let one worker run a file whole, and all of tests/pipeline: a fixture of a file or of the whole graph is then made once.

    xdist's own order, by the number of tests, says nothing of the time they take: it is that of `pytest_collection_modifyitems`.
    """
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):  # type: ignore[misc] # xdist is imported only where it is used
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            return "tests/pipeline" if file.startswith("tests/pipeline/") else file

    config.option.loadscopereorder = False
    return ByFile(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Under pytest-xdist put the folders that take longest first."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        rank = {TESTS / name: number for number, name in enumerate(LONGEST_FIRST)}
        items.sort(key=lambda item: rank.get(item.path.parent, len(rank)))


@pytest.fixture(scope="session", autouse=True)
def own_lock_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Device locks of the tests' own: they neither wait for who times on this machine nor make him wait."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DCNAS_LOCK_DIR", str(tmp_path_factory.mktemp("locks")))
        yield


@pytest.fixture(scope="session")
def project() -> Path:
    """The root of the repository."""
    return TESTS.parent


@pytest.fixture(scope="session")
def golden() -> Callable[[str, str], Any]:
    """A function that gives a golden number of tests/golden/FILE.json, to be compared by `==` within its tolerance."""

    def number(file: str, name: str) -> Any:
        entry = json.loads((TESTS / "golden" / f"{file}.json").read_text(encoding="utf-8"))[name]
        assert set(entry) == {"value", "unit", "tolerance", "origin"}
        return pytest.approx(entry["value"], abs=entry["tolerance"], rel=0)

    return number


@pytest.fixture(scope="session")
def raw_params() -> Callable[..., dict[str, Any]]:
    """A function that gives the smoke preset at a tiny size as plain values, with changes such as {"retrain.epochs": 2}."""
    smoke = read_yaml(TESTS.parent / "presets/smoke.yaml")

    def make(changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
        values: dict[str, Any] = copy.deepcopy(smoke)
        for path, value in {**TINY, **(changes or {})}.items():
            section = values
            *above, last = path.split(".")
            for key in above:
                section = section[key]
            section[last] = value
        return values

    return make


@pytest.fixture(scope="session")
def tiny_params(raw_params: Callable[..., dict[str, Any]]) -> Callable[..., Params]:
    """The same as `raw_params`, checked and typed."""
    return lambda changes=None: Params.model_validate_json(json.dumps(raw_params(changes)))


@pytest.fixture(scope="session")
def write_params(raw_params: Callable[..., dict[str, Any]]) -> Callable[..., Path]:
    """A function that writes the tiny parameters, with changes, to a file and returns its path."""

    def write(path: Path, changes: Mapping[str, Any] | None = None) -> Path:
        with path.open("w", encoding="utf-8") as file:
            YAML(typ="safe").dump(raw_params(changes), file)
        return path

    return write


@pytest.fixture(scope="session")
def tiny_scenes(tiny_params: Callable[..., Params], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the three splits of the tiny parameters; tests must leave it as it is."""
    from dcnas_generate_data.write import write_splits

    folder = tmp_path_factory.mktemp("scenes")
    write_splits(tiny_params().generate_data.digits, folder)
    return folder


@pytest.fixture(scope="session")
def simulated_profile(tiny_params: Callable[..., Params], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The latency profile of the simulated device with the tiny parameters; tests must leave it as it is."""
    from dcnas_profile_latency.job import Settings, profile_job

    params, folder = tiny_params(), tmp_path_factory.mktemp("simulated")
    settings = Settings(device=params.device, profile_latency=params.profile_latency)
    profile_job(settings, folder / "profile.parquet", folder / "scratch")
    return folder / "profile.parquet"


@pytest.fixture(scope="session")
def start() -> Callable[..., subprocess.Popen[str]]:
    """A function that starts this Python with arguments, as no child of DVC, its output caught."""

    def popen(*arguments: object, cwd: Path | None = None, **variables: str) -> subprocess.Popen[str]:
        environment = {key: value for key, value in os.environ.items() if key != "DVC_STAGE"}
        return subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            cwd=cwd,
            env={**environment, **variables},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    return popen


@pytest.fixture(scope="session")
def python(start: Callable[..., subprocess.Popen[str]]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A function that runs this Python with arguments to its end and returns exit code and output."""

    def run(*arguments: object, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
        process = start(*arguments, cwd=cwd, **variables)
        try:
            out, err = process.communicate(timeout=600)
        finally:
            process.kill()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    return run


@pytest.fixture(scope="session")
def forks(python: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., Any]:
    """A function that runs a script that may fork processes which work together, and returns what it prints as JSON."""

    def run(script: str, *arguments: object) -> Any:
        done = python("-c", FORKS + script, *arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.fixture(scope="session")
def in_process() -> Callable[..., subprocess.CompletedProcess[str]]:
    """
    A function that runs the main function of a command with arguments as its module does, but in this process.

    It returns exit code and output like `python`, without the seconds in which a new process imports torch.
    """
    import torch

    def run(main: Callable[[], None], *arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        out, err = io.StringIO(), io.StringIO()
        terminated, threads = signal.getsignal(signal.SIGTERM), torch.get_num_threads()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            patch.setattr(sys, "argv", ["command", *map(str, arguments)])
            patch.setattr(sys, "excepthook", sys.excepthook)  # typer puts its own there
            patch.delenv("DVC_STAGE", raising=False)
            patch.chdir(cwd or Path.cwd())
            try:
                with pytest.raises(SystemExit) as end:
                    run_main(main)
            finally:
                signal.signal(signal.SIGTERM, terminated)
                torch.set_num_threads(threads)
        return subprocess.CompletedProcess(arguments, int(end.value.code or 0), out.getvalue(), err.getvalue())

    return run


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    yield from _mounted(tmp_path / "small disk", "size=1m")


@pytest.fixture
def read_only_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that cannot be written; it holds the file `old` with the content b"old"."""
    for folder in _mounted(tmp_path / "read-only disk", "size=1m"):
        (folder / "old").write_bytes(b"old")
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True, capture_output=True)
        yield folder


def _mounted(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir()
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=False, capture_output=True, text=True
        )
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode != 0:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True, capture_output=True)


@pytest.fixture(scope="session")
def card() -> DeviceCard:
    """A device card made by hand."""
    return DeviceCard(
        kind="cpu", name="Test CPU", cores=2, threads=2, python="3.11.0", torch="2.14.0", system="Linux x86_64"
    )


@pytest.fixture(scope="session")
def provenance(card: DeviceCard) -> Callable[..., Provenance]:
    """A function that makes a provenance by hand."""

    def make(stage: str = "evaluate", item: str = "unet_s-0", seed: int = 0) -> Provenance:
        return Provenance(
            stage=stage,
            item=item,
            commit="0" * 40,
            dirty=(),
            params_sha256="1" * 64,
            seed=seed,
            inputs={},
            device=card,
            versions={"torch": "2.14.0"},
        )

    return make


@pytest.fixture(scope="session")
def write_record(
    tiny_params: Callable[..., Params], provenance: Callable[..., Provenance]
) -> Callable[..., EvaluationMetadata]:
    """A function that writes record.parquet and panel.parquet by hand into a folder, the columns not given being null."""
    rows_of_noise = ({"noisy_psnr_db": None, "noisy_ssim": 1.0}, {"noisy_psnr_db": 12.0, "noisy_ssim": 0.3})

    def write(
        folder: Path,
        model: str,
        seed: int,
        *,
        levels: Sequence[Mapping[str, float]],
        median_ms: float | None = None,
        noise: Sequence[str] = (),
    ) -> EvaluationMetadata:
        spec = tiny_params().models[model]
        sigmas = tuple(0.5 * level for level in range(len(levels)))
        metadata = EvaluationMetadata(
            model=model,
            seed=seed,
            spec=spec,
            epochs=3,
            protocol=Protocol(sigmas=sigmas, clip_noisy=False, noise_seed=0, precision="fp32"),
            cost=Cost(macs=3_000_000, macs_one_digit=2_500_000, parameters=12_345, height=56, width=56),
            latency=None if median_ms is None else _latency(median_ms, noise),
            provenance=provenance(item=f"{model}-{seed}", seed=seed),
        )
        empty = dict.fromkeys(RECORD.names)
        rows = [
            {**empty, "sigma": sigma, "images": 5, **rows_of_noise[sigma > 0], **values}
            for sigma, values in zip(sigmas, levels, strict=True)
        ]
        batch = pa.RecordBatch.from_pylist(rows, schema=RECORD)
        write_parquet(folder / "record.parquet", with_metadata(RECORD, metadata), [batch])
        image = bytes(56 * 56 * 3)
        panel = {
            "scene": 0,
            "sigma": 0.5,
            "height": 56,
            "width": 56,
            "clean": image,
            "noisy": image,
            "restored": None if spec.kind == "classifier" else image,
            "label": [3, 7],
            "predicted": None if spec.kind == "denoiser" else [3, 1],
            "corners": [0, 0, 28, 28],
        }
        panel_metadata = PanelMetadata(model=model, seed=seed, provenance=metadata.provenance)
        batch = pa.RecordBatch.from_pylist([panel], schema=PANEL)
        write_parquet(folder / "panel.parquet", with_metadata(PANEL, panel_metadata), [batch])
        return metadata

    return write


def _latency(median_ms: float, noise: Sequence[str]) -> MeasuredLatency:
    return MeasuredLatency(
        batch=32,
        height=56,
        width=56,
        precision="fp32",
        memory_format="channels_last",
        warmup=2,
        repeats=10,
        median_ms=median_ms,
        p5_ms=median_ms - 1,
        p95_ms=median_ms + 2,
        device_median_ms=None,
        noise=tuple(noise),
        before=DeviceState(load_average=0.1),
        after=DeviceState(load_average=0.2),
    )


PHOTO_SETTINGS: dict[str, Any] = {
    "photo_view": {
        "size": 32,
        "scale": [0.5, 1.0],
        "ratio": [0.75, 1.3333],
        "flip": 0.5,
        "jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.2},
        "centre_share": 0.875,
        "memory_mb": 100,
    },
    "photo_noise": {"highest": 1.0, "sigmas": [0.0, 0.25, 0.5], "clip": False},
    "search_runs": {"searches": ["small"], "seeds": [5]},
    "searches": {
        "small": {
            "ops": 4,
            "beta": "removed",
            "images": "clean",
            "loss": "classification",
            "bound": "classifier",
            "target": {"ms": 1.0},
            "width_multiple": 8,
        }
    },
    "photo_runs": {"models": ["searched", "random", "dc_nas", "unet_s"], "seeds": [0]},
    "photo_models": {
        "dc_nas": {"kind": "dc_nas", "uniform": {"op": "k3_e3", "expand_ratio": 2.0}},
        "d_nas": {"kind": "d_nas", "uniform": {"op": "k3_e3", "expand_ratio": 2.0}},
        "c_nas": {"kind": "c_nas", "uniform": {"op": "k3_e3", "expand_ratio": 2.0}, "images": "clean"},
        "searched": {"kind": "c_nas", "search": "small"},
        "random": {"kind": "c_nas", "random": {"like": "small", "ops": 4, "tolerance_pct": 5.0}},
        "mobilenet": {"kind": "mobilenet_v3_small"},
        "dcnet_s": {"kind": "dc_net", "unet": {"depth": 4, "base": 8, "multiplier": 1.5, "convs": 2}},
        "unet_s": {"kind": "unet", "unet": {"depth": 4, "base": 8, "multiplier": 1.5, "convs": 2}},
    },
    "retrain_photos": {
        "epochs": 2,
        "batch_size": 4,
        "learning_rate": 0.2,
        "learning_rate_batch": 32,
        "momentum": 0.9,
        "weight_decay": 1e-5,
        "warmup": {"epochs": 5, "above_batch": 256},
        "grad_clip": 5.0,
        "dropout": 0.2,
        "drop_connect": 0.2,
        "loss": {
            "cross_entropy": 0.1,
            "denoising": 0.9,
            "charbonnier": 0.8,
            "ssim": 0.2,
            "charbonnier_epsilon": 1e-3,
            "label_smoothing": 0.1,
        },
        "recalibrate": 0,
        "train_on": "train",
        "precision": "fp32",
        "memory_format": "auto",
    },
    "evaluate_photos": {
        "batch_size": 4,
        "noise_seed": 0,
        "precision": "fp32",
        "latency": {"measure": False, "batch": 2, "warmup": 1, "repeats": 5, "canary_band_pct": 50.0},
        "panel": {"images": 3, "sigmas": [0.5]},
    },
}
"""Sections of params.yaml for models on photos, at a size that trains in a second; they take the place of the smoke preset's."""
PHOTO_CLASSES = ("cat", "dog", "owl")


@pytest.fixture(scope="session")
def write_photo_params(raw_params: Callable[..., dict[str, Any]]) -> Callable[..., Path]:
    """A function that writes the tiny parameters with sections for photos of their own, with changes, to a file and returns its path."""

    def write(path: Path, changes: Mapping[str, Any] | None = None) -> Path:
        values = {**raw_params(), **copy.deepcopy(PHOTO_SETTINGS)}
        for name, value in (changes or {}).items():
            section = values
            *above, last = name.split(".")
            for key in above:
                section = section[key]
            section[last] = value
        with path.open("w", encoding="utf-8") as file:
            YAML(typ="safe").dump(values, file)
        return path

    return write


@pytest.fixture(scope="session")
def tiny_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three splits of three classes, 12, 6 and 5 pictures of 40x48 pixels; tests must leave it as it is."""
    folder = tmp_path_factory.mktemp("photos")
    for number, (split, count) in enumerate({"train": 12, "validation": 6, "test": 5}.items()):
        _write_photo_split(folder / f"{split}.parquet", split, count, seed=number)
    return folder


def _write_photo_split(path: Path, split: Any, count: int, *, seed: int) -> None:
    labels = [number % len(PHOTO_CLASSES) for number in range(count)]
    rows = [_photo_row(label, np.random.Generator(np.random.PCG64([seed, i]))) for i, label in enumerate(labels)]
    metadata = PhotosMetadata(
        split=split,
        source="image_folder",
        classes=PHOTO_CLASSES,
        images=count,
        per_class=tuple(labels.count(label) for label in range(len(PHOTO_CLASSES))),
        size=40,
        seed=0,
        refused={},
        repaired={},
        refused_files=(),
        content_sha256="0" * 64,
    )
    batch = pa.RecordBatch.from_pylist(rows, schema=PHOTOS)
    write_parquet(path, with_metadata(PHOTOS, metadata), [batch])


def _photo_row(label: int, generator: np.random.Generator) -> dict[str, Any]:
    """A picture whose brightest channel is its class, a wave of random phase over it."""
    wave = (
        np.sin(np.arange(48) / 6 + generator.uniform(0, 6))
        * np.cos(np.arange(40) / 9 + generator.uniform(0, 6))[:, None]
    )
    pixels = np.full((40, 48, 3), 60.0) + 40 * wave[..., None]
    pixels[..., label] += 100
    encoded = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(encoded, "PNG")
    return {
        "image": encoded.getvalue(),
        "label": label,
        "height": 40,
        "width": 48,
        "name": "x.png",
        "box": [0, 0, 40, 48],
    }


@pytest.fixture(scope="session")
def tiny_profile(simulated_profile: Path) -> Path:
    """The same, for the rooms that know it by this name."""
    return simulated_profile


@pytest.fixture(scope="session")
def tiny_genotype(
    tiny_profile: Path, provenance: Callable[..., Provenance], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A genotype as derive_genotype writes it, of the search `small`: k3 without SE, 3 times as wide as its input, a block short."""
    from dcnas_latency.files import read_profile

    _, metadata = read_profile(tiny_profile)
    stages = uniform_genotype("k3_e3", 3).stages
    derived = DerivedGenotype(
        search="small",
        seed=5,
        spec=SearchSpec(
            ops=4,
            beta="removed",
            images="clean",
            loss="classification",
            bound="classifier",
            target=TargetSpec(ms=1.0),
            width_multiple=8,
        ),
        genotype=Genotype(stages=(stages[0][:1], *stages[1:])),
        target_ms=1.0,
        bound="c_nas",
        setting=metadata.setting,
        predicted={"c_nas": PredictedLatency(ms=1.0, low_ms=0.9, high_ms=1.1)},
        cost={},
        measured=None,
        not_measured="a test",
        provenance=provenance(item="small-5"),
    )
    path = tmp_path_factory.mktemp("genotype") / "genotype.json"
    path.write_text(derived.model_dump_json(), encoding="utf-8")
    return path

"""The pipeline stage evaluate: what a record says is true, and depends on nothing but what it names."""

import fcntl
import json
import random
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dcnas_data.noise import evaluation_noise
from dcnas_data.scenes import read_scenes
from dcnas_evaluate import job as job_module
from dcnas_evaluate import latency as latency_module
from dcnas_evaluate import score
from dcnas_evaluate.job import Job, evaluate_job
from dcnas_evaluate.score import row_of
from dcnas_harness.errors import CorruptArtefactError, NumericalError
from dcnas_harness.files import sha256_of
from dcnas_latency.call import CallPlan, CallTiming, Context, MeasuredCall
from dcnas_latency.canary import CanaryStore
from dcnas_latency.card import device_card, fingerprint
from dcnas_latency.lock import lock_path
from dcnas_nets.macs import count_macs, count_parameters
from dcnas_nets.models import Output, build_model, example_input
from dcnas_retrain.job import Job as TrainJob
from dcnas_retrain.job import train_job
from dcnas_schema.params import Params
from dcnas_schema.parquet import read_parquet
from dcnas_schema.provenance import DeviceCard, DeviceState
from dcnas_schema.records import PANEL, RECORD, EvaluationMetadata, PanelMetadata
from dcnas_training.checkpoints import load_tensors
from dcnas_training.execution import Execution

JOINT = "dcnet_reduced_integrated"
TIMED = {"measure": True, "batch": 2, "warmup": 1, "repeats": 3, "canary_band_pct": 15.0}
"""Parameters of the latency, as few passes as there can be."""
REALLY_TIMED = {"evaluate.latency": TIMED, "evaluate.image_size": 40}
Evaluate = Callable[..., Path]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """One thread: so small a net gains nothing from more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def trained(
    tiny_scenes: Path, tiny_params: Callable[..., Params], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """A function that gives the folder of a model trained for an epoch; each is trained once."""
    root = tmp_path_factory.mktemp("trained")

    def folder(model: str = JOINT, seed: int = 0) -> Path:
        out = root / model / str(seed)
        if not out.exists():
            job = TrainJob(model=model, seed=seed, params=tiny_params(), scenes=tiny_scenes, scratch=root / "scratch")
            train_job(job, out)
        return out

    return folder


@pytest.fixture
def evaluate(
    tmp_path: Path, tiny_scenes: Path, tiny_params: Callable[..., Params], trained: Callable[..., Path]
) -> Evaluate:
    """A function that evaluates a model in this process, with changed parameters, and returns the folder of its outputs."""

    def run(
        changes: Mapping[str, Any] | None = None,
        *,
        model: str = JOINT,
        seed: int = 0,
        weights: Path | None = None,
        scenes: Path = tiny_scenes,
        out: str = "out",
    ) -> Path:
        job = Job(
            model=model,
            seed=seed,
            params=tiny_params(changes),
            scenes=scenes,
            trained=weights or trained(model, seed),
            scratch=tmp_path / "scratch",
        )
        evaluate_job(job, tmp_path / out)
        return tmp_path / out

    return run


@pytest.fixture(scope="module")
def once(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_scenes: Path,
    tiny_params: Callable[..., Params],
    trained: Callable[..., Path],
) -> Callable[..., Path]:
    """A function that gives the outputs of the joint model with these changes; each is made once, and tests leave it as it is."""
    root = tmp_path_factory.mktemp("once")
    made: dict[str, Path] = {}

    def folder(changes: Mapping[str, Any] | None = None) -> Path:
        key = repr(changes)
        if key not in made:
            made[key] = root / str(len(made))
            params, scratch = tiny_params(changes), made[key] / "scratch"
            job = Job(model=JOINT, seed=0, params=params, scenes=tiny_scenes, trained=trained(), scratch=scratch)
            evaluate_job(job, made[key])
        return made[key]

    return folder


def canned() -> MeasuredCall:
    """Return what `measure_call` might, for tests where the time itself does not matter."""
    timing = CallTiming(
        **{"median_ms": 2.0, "p5_ms": 1.5, "p95_ms": 3.0, "device_median_ms": None},
        **{"raw": 5, "kept": 5, "rejected": {}, "canary_reference_ms": 1.0},
    )
    return MeasuredCall(timing=timing, before=DeviceState(), after=DeviceState(), others_pct=0.5, noise=())


def read_record(folder: Path) -> tuple[dict[str, list[Any]], EvaluationMetadata]:
    """Return the record in an output folder."""
    table, metadata = read_parquet(folder / "record.parquet", RECORD, EvaluationMetadata)
    return table.to_pydict(), metadata


def test_the_record_does_not_depend_on_the_batch_size(evaluate: Evaluate) -> None:
    """Scored one by one, by threes or all at once, in fp32: the same figures, PSNR to 1e-6 dB, and the same digits right."""
    records = [read_record(evaluate({"evaluate.batch_size": size}, out=str(size)))[0] for size in (1, 3, 5, 32)]
    for record in records[1:]:
        for name in ("noisy_psnr_db", "psnr_db", "psnr_pooled_db", "noisy_ssim", "ssim"):
            assert record[name] == pytest.approx(records[0][name], abs=1e-6), name
        assert record["top1_pct"] == records[0]["top1_pct"]
        assert record["images"] == [5, 5, 5]


def test_the_noisy_input_scores_what_its_level_says(once: Evaluate, tiny_scenes: Path) -> None:
    """Unclipped noise of deviation sigma has a PSNR of -20 log10 sigma, within five standard errors; without noise it is unbounded."""
    record, _ = read_record(once())
    assert record["sigma"] == [0.0, 0.25, 0.5]
    assert record["noisy_psnr_db"][0] is None
    values = 5 * 3 * 56 * 56
    tolerance = 5 * (10 / np.log(10)) * (2 / values) ** 0.5
    for sigma, found in list(zip(record["sigma"], record["noisy_psnr_db"], strict=True))[1:]:
        assert found == pytest.approx(-20 * np.log10(sigma), abs=tolerance)
    assert record["noisy_ssim"][0] == pytest.approx(1.0, abs=1e-6)
    assert 1 > record["noisy_ssim"][1] > record["noisy_ssim"][2] > 0
    assert len(read_scenes(tiny_scenes / "test.parquet").images) == 5


def test_the_figures_are_those_of_a_computation_by_hand(
    evaluate: Evaluate, tiny_scenes: Path, trained: Callable[..., Path], tiny_params: Callable[..., Params]
) -> None:
    """PSNR, pooled PSNR and top-1 at a level equal those of the model run here, image by image, with the noise of (seed, image, level)."""
    record, _ = read_record(evaluate({"evaluate.noise_seed": 3}))
    scenes = read_scenes(tiny_scenes / "test.parquet")
    model = build_model(tiny_params().models[JOINT], seed=0).eval()
    model.load_state_dict(load_tensors(trained() / "weights.safetensors"))
    clean = torch.from_numpy(scenes.images)[:, None].float() / 255
    noisy = clean + 0.5 * evaluation_noise((3, 56, 56), seed=3, images=range(5), level=2)
    with torch.inference_mode():
        restored, logits = model(noisy, torch.from_numpy(scenes.corners).long())
    errors = ((restored.clamp(0, 1) - clean).numpy().astype(float) ** 2).mean((1, 2, 3))
    assert record["psnr_db"][2] == pytest.approx((-10 * np.log10(errors)).mean(), abs=1e-4)
    assert record["psnr_pooled_db"][2] == pytest.approx(-10 * np.log10(errors.mean()), abs=1e-4)
    assert record["top1_pct"][2] == pytest.approx(100 * (logits.argmax(-1).numpy() == scenes.labels).mean())


def test_the_restored_image_is_clamped_and_the_noisy_one_only_where_asked(evaluate: Evaluate, once: Evaluate) -> None:
    """A net's output beyond [0, 1] is scored as 0 or 1; clipping the noisy image, which raises its PSNR, is off by default and recorded."""
    beyond = Output(torch.tensor([[[[-0.5, 0.25], [1.5, 1.0]]]]), None)
    batch, execution = (
        SimpleNamespace(corners=None),
        Execution(device=torch.device("cpu"), precision="fp32", memory_format="contiguous"),
    )
    restored = score.run_model(lambda *_: beyond, torch.zeros(1, 3, 2, 2), batch, execution).restored  # type: ignore[arg-type] # a function stands in for a net
    assert restored is not None
    assert restored.flatten().tolist() == [0.0, 0.25, 1.0, 1.0]
    free, clipped = read_record(once()), read_record(evaluate({"noise.clip": True}, out="clipped"))
    assert (free[1].protocol.clip_noisy, clipped[1].protocol.clip_noisy) == (False, True)
    assert clipped[0]["noisy_psnr_db"][2] > free[0]["noisy_psnr_db"][2] + 0.3


def test_the_same_inputs_give_the_same_bytes(evaluate: Evaluate, once: Evaluate) -> None:
    """Without timing, record and panel repeat to the last byte; another noise seed changes them."""
    first, again, other = once(), evaluate(out="b"), evaluate({"evaluate.noise_seed": 1}, out="c")
    for name in ("record.parquet", "panel.parquet"):
        assert sha256_of(first / name) == sha256_of(again / name) != sha256_of(other / name)


@pytest.mark.parametrize(
    ("model", "restores", "classifies"),
    [(JOINT, True, True), ("unet_s", True, False), ("classifier_conv_clean", False, True)],
)
def test_a_task_that_the_model_lacks_is_null(evaluate: Evaluate, model: str, restores: bool, classifies: bool) -> None:
    """A denoiser has no top-1, a classifier no PSNR; what is there is finite; a classifier of clean digits is tested on noisy ones too."""
    record, metadata = read_record(evaluate(model=model))
    for name, there in (
        ("psnr_db", restores),
        ("psnr_pooled_db", restores),
        ("ssim", restores),
        ("top1_pct", classifies),
    ):
        if there:
            assert np.isfinite(np.array(record[name], float)).all(), name
        else:
            assert record[name] == [None] * 3
    assert record["sigma"] == [0.0, 0.25, 0.5]
    assert (metadata.model, metadata.seed, metadata.epochs) == (model, 0, 1)


def test_the_cost_is_that_of_the_model_at_the_size_asked_for(
    evaluate: Evaluate, tiny_params: Callable[..., Params]
) -> None:
    """MACs with two digits and with one, and parameters, are the counter's, of another size than the scenes' too."""
    cost = read_record(evaluate({"evaluate.image_size": 96}))[1].cost
    model = build_model(tiny_params().models[JOINT], seed=0)
    image, corners = example_input(1, 96, 96, torch.device("cpu"))
    assert (cost.height, cost.width, cost.parameters) == (96, 96, count_parameters(model))
    assert (cost.macs, cost.macs_one_digit) == (
        count_macs(model, image, corners),
        count_macs(model, image, corners[:, :1]),
    )
    assert cost.macs > cost.macs_one_digit


def test_latency_comes_with_its_spread_and_conditions(once: Evaluate) -> None:
    """The median lies within p5 and p95; batch, size, precision, counts and the device's state before and after stand beside it."""
    found = read_record(once(REALLY_TIMED))[1].latency
    assert found is not None
    assert 0 < found.p5_ms <= found.median_ms <= found.p95_ms
    assert (found.batch, found.height, found.width, found.precision) == (2, 40, 40, "fp32")
    assert (found.warmup, found.repeats, found.device_median_ms) == (1, 3, None)
    assert found.raw is not None
    assert found.kept is not None
    assert found.kept + sum(found.rejected.values()) == found.raw >= 3
    assert found.kept >= 5 or any("samples accepted" in reason for reason in found.noise)
    assert found.canary_band_pct == 15.0
    assert found.canary_reference_ms is not None
    assert found.before.load_average is not None
    assert found.after.load_average is not None


def test_measuring_latency_changes_no_figure(once: Evaluate) -> None:
    """Timing comes after scoring and leaves the rows as they are."""
    assert read_record(once(REALLY_TIMED))[0] == read_record(once())[0]


def test_the_machines_best_time_is_kept_in_scratch(once: Evaluate) -> None:
    """The reference that the passes were judged by outlives the session, under the device's fingerprint and threads."""
    found = read_record(once(REALLY_TIMED))[1]
    kept = list((once(REALLY_TIMED) / "scratch").rglob("*.json"))
    assert [path.name for path in kept] == [f"{fingerprint(found.card)}-torch_eager-{found.card.threads}.json"]
    assert found.latency is not None
    assert found.latency.canary_reference_ms in json.loads(kept[0].read_text())["sessions_ms"]


def test_without_timing_nothing_is_kept(once: Evaluate) -> None:
    """Who does not time leaves the scratch folder as it is."""
    assert not (once() / "scratch").exists()


def free_for(card: DeviceCard, kind: int) -> bool:
    """Return whether another process could now take the lock of the card's device as `fcntl.LOCK_SH` or `fcntl.LOCK_EX`."""
    with lock_path(card).open() as file:  # a descriptor of its own, to which the kernel grants nothing that others hold
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def test_timing_runs_alone_and_scoring_does_not(evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it scores others may compute but none may time; while it times none may do either; then the device is free."""
    held: dict[str, tuple[bool, bool]] = {}

    def watch(module: ModuleType, name: str) -> None:
        original = getattr(module, name) if module is job_module else lambda *_, **__: canned()

        def watched(*arguments: Any, **named: Any) -> Any:
            card = device_card("cpu")
            held[name] = (free_for(card, fcntl.LOCK_SH), free_for(card, fcntl.LOCK_EX))
            return original(*arguments, **named)

        monkeypatch.setattr(module, name, watched)

    for name in ("score_levels", "panel_rows", "count_macs"):
        watch(job_module, name)
    watch(latency_module, "measure_call")
    evaluate({"evaluate.latency": TIMED})
    computing, alone = (True, False), (False, False)
    assert held == {
        "score_levels": computing,
        "panel_rows": computing,
        "count_macs": computing,
        "measure_call": alone,
    }
    assert free_for(device_card("cpu"), fcntl.LOCK_EX)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_timed_is_the_model_that_was_scored(
    evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """The pass runs the trained model on a batch of random images of the size asked for, without gradients, in the record's precision."""
    seen: list[tuple[Any, bool, bool]] = []

    def measure(
        program: Any,
        device: torch.device,
        plan: CallPlan,
        *,
        context: Context,
        store_of: Callable[[str], CanaryStore],
        cache: str = "warm",
    ) -> MeasuredCall:
        assert (device.type, cache) == ("cpu", "warm")
        assert (plan.warmup, plan.repeats, plan.canary_band_pct) == (1, 3, 15.0)
        assert store_of("an op").op == "an op"
        assert not torch.is_inference_mode_enabled()
        with context():
            output = program.run()
            seen.append((program, torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")))
        assert output.restored.shape == (2, 3, 48, 48)
        assert output.logits.dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)
        assert not program.model.training
        assert float(program.image.std()) == pytest.approx(1.0, abs=0.1)
        assert program.image.is_contiguous(memory_format=torch.channels_last)
        return canned()

    monkeypatch.setattr(latency_module, "measure_call", measure)
    evaluate({"evaluate.latency": TIMED, "evaluate.image_size": 48, "evaluate.precision": precision})
    assert [(inference, autocast) for _, inference, autocast in seen] == [(True, precision == "bf16")]


def test_without_measuring_there_is_no_latency(once: Evaluate) -> None:
    """A latency that was not measured is absent, not zero."""
    assert read_record(once())[1].latency is None


def test_provenance_names_scenes_weights_and_log(
    once: Evaluate, tiny_scenes: Path, trained: Callable[..., Path]
) -> None:
    """The record carries the hash of each file that it was computed from."""
    files = [tiny_scenes / "test.parquet", trained() / "weights.safetensors", trained() / "log.parquet"]
    provenance = read_record(once())[1].provenance
    assert provenance.inputs == {path.as_posix(): sha256_of(path) for path in files}
    assert (provenance.stage, provenance.item) == ("evaluate", f"{JOINT}-0")


def test_the_panel_shows_the_scene_that_was_scored(evaluate: Evaluate, tiny_scenes: Path) -> None:
    """Clean, noisy and restored images, labels, predictions and corners of the first scene at each of the panel's levels."""
    out = evaluate({"evaluate.panel": {"scenes": 2, "sigmas": [0.0, 0.5]}})
    table, metadata = read_parquet(out / "panel.parquet", PANEL, PanelMetadata)
    scenes = read_scenes(tiny_scenes / "test.parquet")
    rows = table.to_pylist()
    assert [(row["sigma"], row["scene"]) for row in rows] == [(0.0, 0), (0.0, 1), (0.5, 0), (0.5, 1)]
    for row in rows:
        images = {
            name: np.frombuffer(row[name], np.uint8).reshape(56, 56, 3) for name in ("clean", "noisy", "restored")
        }
        expected = np.broadcast_to(scenes.images[row["scene"]][..., None], (56, 56, 3))
        np.testing.assert_array_equal(images["clean"], expected)
        assert np.array_equal(images["noisy"], expected) == (row["sigma"] == 0)
        assert row["label"] == scenes.labels[row["scene"]].tolist()
        assert row["corners"] == scenes.corners[row["scene"]].ravel().tolist()
        assert len(row["predicted"]) == 2
    assert (metadata.model, metadata.seed) == (JOINT, 0)


def swapped(folder: Path, weights: Path, log: Path) -> Path:
    """Return a folder with the weights of one run and the log of another."""
    folder.mkdir()
    shutil.copyfile(weights / "weights.safetensors", folder / "weights.safetensors")
    shutil.copyfile(log / "log.parquet", folder / "log.parquet")
    return folder


def test_the_log_of_another_model_is_refused(evaluate: Evaluate, trained: Callable[..., Path]) -> None:
    """The outputs of another model, or of another seed, are a corrupt artefact (exit 4) that names both."""
    with pytest.raises(CorruptArtefactError, match=rf"(?s)unet_s seed 0.*not of {JOINT} seed 0"):
        evaluate(weights=trained("unet_s"))
    with pytest.raises(CorruptArtefactError, match=rf"(?s){JOINT} seed 1.*not of {JOINT} seed 0.*retrain@{JOINT}-0"):
        evaluate(weights=trained(JOINT, 1))


def test_a_model_whose_parameters_changed_since_is_refused(evaluate: Evaluate, trained: Callable[..., Path]) -> None:
    """Weights of the same name but of another width are not taken for those of the parameters."""
    with pytest.raises(CorruptArtefactError, match=r"(?s)base=8.*base=9"):
        evaluate({f"models.{JOINT}.unet.base": 9}, weights=trained())


@pytest.mark.parametrize(
    ("model", "other", "other_seed"),
    [
        (JOINT, "unet_s", 0),
        (JOINT, JOINT, 1),
        ("classifier_conv_clean", "classifier_conv_noisy", 0),
    ],
    ids=["another shape", "another seed", "other images"],
)
def test_weights_of_another_run_are_refused(
    evaluate: Evaluate, trained: Callable[..., Path], tmp_path: Path, model: str, other: str, other_seed: int
) -> None:
    """Weights put beside the log of another run are a corrupt artefact, even where their shapes fit."""
    folder = swapped(tmp_path / "swapped", weights=trained(other, other_seed), log=trained(model))
    with pytest.raises(CorruptArtefactError, match=r"weights\.safetensors"):
        evaluate(model=model, weights=folder)


@pytest.mark.parametrize("name", ["weights.safetensors", "log.parquet"])
def test_damaged_or_missing_outputs_of_training_are_named(
    evaluate: Evaluate, trained: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    """A cut or absent file is a corrupt artefact by name."""
    folder = swapped(tmp_path / "damaged", weights=trained(), log=trained())
    (folder / name).write_bytes((folder / name).read_bytes()[:-20])
    with pytest.raises(CorruptArtefactError, match=name):
        evaluate(weights=folder)
    (folder / name).unlink()
    with pytest.raises(CorruptArtefactError, match=rf"{name} (does not exist|is missing)"):
        evaluate(weights=folder)


def test_a_flipped_bit_in_the_weights_is_noticed(
    evaluate: Evaluate, trained: Callable[..., Path], tmp_path: Path
) -> None:
    """safetensors has no checksum of its own: each of twenty single-bit changes must be caught by ours (exit 4)."""
    folder = swapped(tmp_path / "flipped", weights=trained(), log=trained())
    content = (folder / "weights.safetensors").read_bytes()
    for bit in random.Random(0).sample(range(8 * len(content)), 20):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << (bit % 8)
        (folder / "weights.safetensors").write_bytes(changed)
        with pytest.raises(CorruptArtefactError, match=r"weights\.safetensors"):
            evaluate(weights=folder)


def test_missing_scenes_are_named(evaluate: Evaluate, tmp_path: Path) -> None:
    """No test split is a corrupt artefact (exit 4) that says which stage makes it."""
    with pytest.raises(CorruptArtefactError, match=r"(?s)test\.parquet does not exist.*generate_data"):
        evaluate(scenes=tmp_path)


def test_the_command_scores_a_model(
    tmp_path: Path,
    tiny_scenes: Path,
    trained: Callable[..., Path],
    write_params: Callable[..., Path],
    once: Evaluate,
    python: Callable[..., subprocess.CompletedProcess[str]],
    project: Path,
) -> None:
    """Run as a module it exits 0, prints its progress, and writes the bytes that the function writes."""
    arguments = {
        "params": write_params(tmp_path / "params.yaml"),
        "model": JOINT,
        "seed": 0,
        "scenes": tiny_scenes,
        "trained": trained(),
        "out": tmp_path / "command",
        "scratch": tmp_path / "scratch",
    }
    words = [word for name, value in arguments.items() for word in (f"--{name}", value)]
    done = python("-m", "dcnas_evaluate", *words, cwd=project)
    assert done.returncode == 0, done.stderr
    assert f"evaluate {JOINT} seed 0 (cpu fp32): 3/3 done" in done.stdout
    assert sorted(path.name for path in (tmp_path / "command").iterdir()) == ["panel.parquet", "record.parquet"]
    assert read_record(tmp_path / "command")[0] == read_record(once())[0]


@pytest.mark.parametrize("stage", ["evaluate", "retrain"])
@pytest.mark.parametrize(
    ("model", "params", "told"),
    [("unet_z", "params.yaml", "No model is named 'unet_z'"), (JOINT, "parms.yaml", "parms.yaml does not exist")],
    ids=["model", "file"],
)
def test_a_slip_of_the_finger_is_answered_before_torch_is_imported(
    tmp_path: Path,
    write_params: Callable[..., Path],
    python: Callable[..., subprocess.CompletedProcess[str]],
    stage: str,
    model: str,
    params: str,
    told: str,
) -> None:
    """A model or file that is not there is bad input (exit 2) by its name, without the seconds that torch takes."""
    write_params(tmp_path / "params.yaml")
    given = {"params": tmp_path / params, "model": model, "seed": 0, "scenes": tmp_path, "out": tmp_path / "out"}
    given |= {"trained": tmp_path} if stage == "evaluate" else {}
    words = [word for name, value in given.items() for word in (f"--{name}", value)]
    done = python("-X", "importtime", "-m", f"dcnas_{stage}", *words)
    assert done.returncode == 2, done.stderr
    assert told in done.stderr
    assert not re.search(r"\| +torch$", done.stderr, re.MULTILINE)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["error", "ssim"])
def test_a_score_that_is_no_number_stops_the_evaluation(name: str) -> None:
    """A net that restores NaN ends with a NumericalError that names level and score; no record holds what no mean can take."""
    scores = {key: torch.tensor([0.1, 0.2]) for key in ("noisy_error", "noisy_ssim", "error", "ssim")}
    with pytest.raises(NumericalError, match=rf"{name}.*sigma 0\.5"):
        row_of(0.5, {**scores, name: torch.tensor([0.1, float("nan")])})


def test_an_image_restored_to_the_last_bit_is_counted_apart() -> None:
    """Its PSNR is unbounded: the mean is of the others, and the record says how many were exact; without any other there is no mean."""
    scores = {key: torch.tensor([0.1, 0.2, 0.3]) for key in ("noisy_error", "noisy_ssim", "ssim")}
    row = row_of(0.0, {**scores, "error": torch.tensor([0.0, 0.1, 0.001])})
    assert row["psnr_db"] == pytest.approx(20.0)
    assert row["exact"] == 1
    assert np.isfinite(row["psnr_pooled_db"])
    assert row_of(0.0, {**scores, "error": torch.tensor([0.1, 0.1, 0.1])})["exact"] == 0
    assert row_of(0.0, scores)["exact"] is None
    with pytest.raises(NumericalError, match=r"All 3 test images .* sigma 0:"):
        row_of(0.0, {**scores, "error": torch.zeros(3)})


@pytest.mark.parametrize("logit", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_no_accuracy(
    logit: float, evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An argmax of NaN is a class like any other: the evaluation ends instead, naming how many images at which level."""
    whole = score.run_model

    def broken(*arguments: Any) -> Output:
        output = whole(*arguments)
        assert output.logits is not None
        logits = output.logits.clone()
        logits[0, 0, 3] = logit
        return Output(output.restored, logits)

    monkeypatch.setattr(score, "run_model", broken)
    with pytest.raises(NumericalError, match=r"'correct' of \d+ of \d+ test images is no number at sigma 0\b"):
        evaluate()

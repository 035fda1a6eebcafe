"""The stage from files to files: what it writes, what it refuses before any training, that a kill cannot harm it."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dcnas_harness.errors import BadInputError, CorruptArtefactError, NumericalError
from dcnas_harness.files import sha256_of
from dcnas_latency.files import read_profile, write_profile
from dcnas_latency.predictor import Predictor
from dcnas_latency.table import LatencyKeyMissingError
from dcnas_schema.genotype import parts_of
from dcnas_schema.latency import ReferenceTiming
from dcnas_schema.parquet import read_parquet
from dcnas_schema.sampling import random_genotype
from dcnas_schema.search_log import SEARCH_LOG, ArchitectureRecord, SearchMetadata
from dcnas_schema.search_params import TargetSpec
from dcnas_schema.space import NET_KINDS, OP_SETS, PLACES, NetKind
from dcnas_search_supernet.bound import net_latency, require_reachable, target_within
from dcnas_search_supernet.job import search_job
from dcnas_training.checkpoints import CheckpointFolder
from dcnas_training.search_latency import reach

KILLS = """
import json, os, signal, sys, time
from pathlib import Path
from dcnas_search_supernet.job import Job, Settings, search_job

folder, settings, photos, profile = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
job = Job(search="tiny", seed=0, settings=Settings.model_validate_json(settings), photos=photos, profile=profile,
          scratch=folder / "scratch")
ends = []
for wanted in ("epoch-0001.json", "epoch-0002.json", None):
    child = os.fork()
    if child == 0:
        os.dup2(2, 1)
        search_job(job, folder / "out")
        os._exit(0)
    while wanted is not None and not list((folder / "scratch").rglob(wanted)):
        time.sleep(0.01)
    if wanted is not None:
        time.sleep(0.1)  # in the middle of the next epoch
        os.kill(child, signal.SIGKILL)
    ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(ends))
"""


def read_log(folder: Path) -> tuple[list[dict[str, Any]], SearchMetadata]:
    """Return the rows and metadata of a search's log."""
    table, metadata = read_parquet(folder / "search.parquet", SEARCH_LOG, SearchMetadata)
    return table.to_pylist(), metadata


def test_a_search_logs_every_epoch(finished: Path) -> None:
    """In the warm-up weights alone are trained; then alphas move, the temperature holds, then falls, and rates follow the cosine."""
    rows, metadata = read_log(finished)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert [row["task_loss"] is None for row in rows] == [True, False, False]
    assert [row["weight_rate"] for row in rows] == pytest.approx([0.02, 0.015, 0.005])
    assert [row["temperature"] for row in rows] == pytest.approx([5.0, 5.0, 4.8])
    assert np.allclose(rows[0]["log_alphas"], -np.log(4))
    assert not np.allclose(rows[1]["log_alphas"], -np.log(4))
    assert all(row["log_betas"] is None for row in rows)
    assert all(len(row["widths"]) == len(row["log_alphas"]) == 4 * len(PLACES) for row in rows)
    assert (metadata.ops, metadata.classes, metadata.weight_images) == (OP_SETS[4], 3, 12)
    assert metadata.accuracy is not None
    assert metadata.accuracy.kind == "c_nas"


def test_the_derived_net_is_scaled_to_just_under_the_target(finished: Path) -> None:
    """After an epoch that searches, the predicted latency of the derived net is within 3 % below the target."""
    rows, metadata = read_log(finished)
    for row in rows[1:]:
        assert 0.97 * metadata.target_ms < row["derived_ms"] <= metadata.target_ms


def test_the_architecture_is_that_of_the_last_epoch(finished: Path) -> None:
    """architecture.json holds the alphas and widths of the log's last row."""
    rows, _ = read_log(finished)
    record = ArchitectureRecord.model_validate_json((finished / "architecture.json").read_bytes())
    assert [value for row in record.log_alphas for value in row] == rows[-1]["log_alphas"]
    assert [width for row in record.widths for width in row] == rows[-1]["widths"]
    assert record.log_betas is None


def test_a_killed_search_ends_with_the_bits_of_the_undisturbed(
    finished: Path, tmp_path: Path, job: Callable[..., Any], python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """Killed in two of its epochs and run again, the search writes the same bytes: weights, masks, alphas, generators came back."""
    asked = job(tmp_path)
    done = python("-c", KILLS, tmp_path, asked.settings.model_dump_json(), asked.photos, asked.profile)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [-9, -9, 0]
    for file in ("search.parquet", "architecture.json"):
        assert sha256_of(tmp_path / "out" / file) == sha256_of(finished / file)


def test_a_target_by_reach_is_one_latency_for_every_candidate_set(
    tmp_path: Path, job: Callable[..., Any], spec: Callable[..., Any]
) -> None:
    """It lies that far from the fastest to the slowest net of four ops, whatever the search has, and in what the search can reach."""
    asked = job(tmp_path)
    entries, profile = read_profile(asked.profile)
    net = net_latency(Predictor.of(entries, profile), "c_nas", profile.setting)
    ends = reach(net, OP_SETS[4], width_multiple=8, elastic_depth=False)
    for changes in ({}, {"ops": 8}, {"beta": "sink"}):
        found = [target_within(share, spec(**changes), net) for share in (0.0, 0.5, 1.0)]
        assert found == pytest.approx([ends.least_ms, (ends.least_ms + ends.greatest_ms) / 2, ends.greatest_ms])
        for ms in found:
            require_reachable("a", spec(**changes), net, ms)
    assert str(TargetSpec(reach=0.25)) == "25 % of the reach"


@pytest.mark.parametrize("piece", ["net", "architecture", "generators", "rows"])
def test_a_checkpoint_without_a_piece_is_refused(
    piece: str, tmp_path: Path, job: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each piece of the state is needed to go on: none is silently taken from the start."""
    from dcnas_search_supernet import loop

    class Folder(CheckpointFolder):
        def newest(self) -> tuple[int, dict[str, Any]]:
            return 1, {name: saved[name] for name in saved if name != piece}

    runs: list[Any] = []
    monkeypatch.setattr("dcnas_search_supernet.job.search", runs.append)
    with pytest.raises(TypeError):  # the log of a search that did not run cannot be written
        search_job(job(tmp_path), tmp_path / "out")
    state = loop.start_state(runs[0])
    saved = state.to_save()
    object.__setattr__(runs[0], "checkpoints", Folder(tmp_path))
    with pytest.raises(CorruptArtefactError, match=f"lacks '{piece}'"):
        loop.search(runs[0])


def test_the_joint_model_is_searched_with_betas_noise_and_both_losses(
    tmp_path: Path, job: Callable[..., Any], params: Any
) -> None:
    """A sink-connecting search on noisy images with the decoder attached, bound by the whole joint model, ends in finite numbers."""
    settings = params(epochs=2, view=params().view.model_copy(update={"size": 48}))
    changes = {"beta": "sink", "images": "noisy", "loss": "both", "bound": "joint", "target": TargetSpec(ms=3.0)}
    search_job(job(tmp_path, params_=settings, **changes), tmp_path / "out")
    rows, metadata = read_log(tmp_path / "out")
    assert metadata.spec.kind == "dc_nas"
    betas = np.array(rows[-1]["log_betas"])
    assert len(betas) == 18
    assert not np.allclose(betas, rows[0]["log_betas"])
    assert rows[-1]["derived_ms"] <= 3.0
    assert rows[0]["expected_ms"] < metadata.reachable.greatest_ms


@pytest.mark.parametrize(("ms", "where"), [(0.5, "below"), (50.0, "above")])
def test_an_unreachable_target_is_refused_before_any_training(
    ms: float, where: str, tmp_path: Path, job: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the target and the reachable range; no photograph is read and nothing is written."""
    monkeypatch.setattr("dcnas_search_supernet.job.PhotoStore", None)
    with pytest.raises(BadInputError, match=rf"{ms:g} ms\) lies {where} .* 4 ops: \d\.\d+ to \d\.\d+ ms"):
        search_job(job(tmp_path, target=TargetSpec(ms=ms)), tmp_path / "out")
    assert not list(tmp_path.rglob("*.*"))


def test_the_reachable_range_is_that_of_the_bounded_net(profile: Path, spec: Callable[..., Any]) -> None:
    """A target that the classifier reaches may be out of reach of the joint model, whose decoder takes its share."""
    entries, metadata = read_profile(profile)
    predictor = Predictor.of(entries, metadata)
    require_reachable("a", spec(), net_latency(predictor, "c_nas", metadata.setting), 1.83)
    with pytest.raises(BadInputError, match="what the joint can reach"):
        require_reachable("a", spec(bound="joint"), net_latency(predictor, "dc_nas", metadata.setting), 1.83)


@pytest.mark.parametrize("kind", NET_KINDS)
def test_the_latency_of_the_search_is_the_predictors(kind: NetKind, profile: Path) -> None:
    """Taken apart into blocks and the rest, the latency of random nets is the predictor's word, calibration and decoder included."""
    entries, metadata = read_profile(profile)
    predictor, setting = Predictor.of(entries, metadata), metadata.setting
    net = net_latency(predictor, kind, setting)
    generator = np.random.default_rng(0)
    size = {"height": setting.height, "width": setting.width}
    for _ in range(5):
        genotype = random_genotype(generator, ops=OP_SETS[8])
        places = {(place.stage, place.block): number for number, place in enumerate(PLACES)}
        blocks = [(places[p.stage, p.block], choice.op, choice.mid_channels) for p, choice in genotype.placed()]
        expected = predictor.predict(kind, parts_of(kind, genotype, classes=setting.classes, **size)).ms
        assert net.total(blocks) == pytest.approx(expected, rel=1e-12)
        ends = reach(net, OP_SETS[8], width_multiple=8, elastic_depth=False)
        assert ends.holds(expected)


def test_a_relative_target_is_read_from_the_profile(tmp_path: Path, job: Callable[..., Any]) -> None:
    """The reference net was timed once, with the table: every search and seed means that figure, and its doubts go along."""
    asked = job(tmp_path, target=TargetSpec(relative=0.5, to="resnet18"))
    entries, profile = read_profile(asked.profile)
    reference = ReferenceTiming(
        net="resnet18",
        measured_ms=3.66,
        low_ms=3.6,
        high_ms=3.7,
        raw=8,
        kept=2,
        builds_differ_pct=None,
        noise=("too few",),
    )
    own = tmp_path / "profile.parquet"
    write_profile(own, entries, profile.model_copy(update={"references": (reference,)}))
    search_job(replace(asked, profile=own), tmp_path / "out")
    _, metadata = read_log(tmp_path / "out")
    assert metadata.target_ms == pytest.approx(1.83)
    assert (metadata.reference_ms, metadata.reference_noise) == (3.66, ("too few",))
    record = ArchitectureRecord.model_validate_json((tmp_path / "out/architecture.json").read_bytes())
    assert (record.reference_ms, record.met, record.choices) == (3.66, True, None)


def test_a_relative_target_needs_its_net_in_the_profile(tmp_path: Path, job: Callable[..., Any]) -> None:
    """The error names the net, what the profile holds, and the parameter to add it to."""
    target = TargetSpec(relative=1.0, to="mobilenet_v2")
    with pytest.raises(BadInputError, match=r"relative to mobilenet_v2, and .* holds the latency of none") as caught:
        search_job(job(tmp_path, target=target), tmp_path / "out")
    assert "profile_latency.references" in str(caught.value)


def test_a_search_of_finer_widths_than_the_table_is_refused(
    tmp_path: Path, job: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the table's widths end before those of the search, that is said before any training."""
    asked = job(tmp_path)
    entries, profile = read_profile(asked.profile)
    least = min(e.mid_channels for e in entries if e.mid_channels is not None)
    own = tmp_path / "profile.parquet"
    kept = [entry for entry in entries if entry.mid_channels != least]
    plan = profile.plan.model_copy(update={"entries": len(kept)})
    write_profile(own, kept, profile.model_copy(update={"plan": plan}))
    monkeypatch.setattr("dcnas_search_supernet.job.PhotoStore", None)
    with pytest.raises(LatencyKeyMissingError, match=f"{least} lies beyond"):
        search_job(replace(asked, profile=own), tmp_path / "out")


@pytest.mark.parametrize("most_likely", ["k3_e3", "k5_e6"])
def test_a_net_above_its_target_at_its_least_widths_takes_cheaper_ops(
    most_likely: str, tmp_path: Path, job: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Widths alone do not reach the target of a net of dear ops: the derived net meets it, the alphas stay, and it is recorded."""

    def searched(run: Any) -> list[Any]:
        with torch.no_grad():
            run.architecture.log_alphas[:, run.spec.candidates.index(most_likely)] += 3.0
        return []

    monkeypatch.setattr("dcnas_search_supernet.job.search", searched)
    asked = job(tmp_path, target=TargetSpec(reach=0.1))
    search_job(asked, tmp_path / "out")
    _, metadata = read_log(tmp_path / "out")
    record = ArchitectureRecord.model_validate_json((tmp_path / "out/architecture.json").read_bytes())
    entries, profile = read_profile(asked.profile)
    net, ops = net_latency(Predictor.of(entries, profile), "c_nas", profile.setting), record.ops
    likely = [row.index(max(row)) for row in record.log_alphas]
    choices = likely if record.choices is None else record.choices
    total = net.total([(p, ops[op], record.widths[p][op]) for p, op in enumerate(choices)])
    assert (metadata.met, record.met) == (True, True)
    if most_likely == "k5_e6":
        assert 0 < metadata.switched == sum(a != b for a, b in zip(choices, likely, strict=True)) <= len(PLACES)
        assert 0.9 * metadata.target_ms < total <= metadata.target_ms * (1 + 1e-9)


def test_a_batch_larger_than_a_split_is_refused(tmp_path: Path, job: Callable[..., Any], params: Any) -> None:
    """Without a whole batch for the architecture there would be no step; the error names both numbers."""
    with pytest.raises(BadInputError, match="batch_size is 9, more than the 8 photographs of validation"):
        search_job(job(tmp_path, params_=params(batch_size=9)), tmp_path / "out")


def test_a_search_that_diverges_says_where(tmp_path: Path, job: Callable[..., Any], params: Any) -> None:
    """An absurd learning rate ends with exit 5 and a remedy, and no output."""
    with pytest.raises(NumericalError, match=r"not finite at epoch 1"):
        search_job(job(tmp_path, params_=params(learning_rate=1e30)), tmp_path / "out")
    assert not (tmp_path / "out").exists()

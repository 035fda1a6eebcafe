"""The pipeline stage profile_latency as DVC runs it: parameters in, one file out, and an exit code for whatever goes wrong."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dcnas_harness.errors import BadInputError, CorruptArtefactError, ExitCode, UnfitEnvironmentError
from dcnas_latency.files import read_profile
from dcnas_latency.identity import device_identity, write_identity
from dcnas_profile_latency.__main__ import main

FEW = {"profile_latency.ops": 4, "profile_latency.image_size": 32}
NARROW = {
    "builds_differ_pct": 1e-6,
    "accepted_pct": 25.0,
    "used_all_pct": 100.0,
    "slow_pct": 100.0,
    "drift_pct": 5.0,
    "others_pct": 5.0,
    "clock_spread_pct": 3.0,
    "mape_pct": 1e-6,
    "plan_pct": 100.0,
}
Stage = Callable[..., Path]


@pytest.fixture
def stage(tmp_path: Path, write_params: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Stage:
    """A function that runs the pipeline stage in this process, with changed parameters, and returns the path of its output."""

    def run(changes: dict[str, Any] | None = None, *, machine: Path | None = None, out: str = "out.parquet") -> Path:
        params = write_params(tmp_path / "params.yaml", {**FEW, **(changes or {})})
        words = ["--params", params, "--out", tmp_path / out, "--scratch", tmp_path / "scratch"]
        words += [] if machine is None else ["--machine", machine]
        monkeypatch.setattr(sys, "argv", ["dcnas_profile_latency", *map(str, words)])
        main()
        return tmp_path / out

    return run


def test_the_same_parameters_give_the_same_bytes(
    stage: Stage, write_params: Callable[..., Path], python: Callable[..., Any], tmp_path: Path
) -> None:
    """A process of its own and a run in this one make the same file of a simulated device; another seed makes another."""
    params = write_params(tmp_path / "own.yaml", FEW)
    done = python(
        *("-m", "dcnas_profile_latency", "--params", params),
        *("--out", tmp_path / "own.parquet", "--scratch", tmp_path / "own"),
    )
    assert done.returncode == ExitCode.OK, done.stderr
    assert "noise gate: passed" in done.stdout
    first = stage().read_bytes()
    assert first == (tmp_path / "own.parquet").read_bytes()
    assert first != stage({"profile_latency.seed": 1}).read_bytes()


def test_a_closed_gate_exits_3_and_writes_nothing(
    write_params: Callable[..., Path], in_process: Callable[..., Any], tmp_path: Path
) -> None:
    """Every reason stands on stderr, with the figure, the limit and what to do."""
    noisy = {"profile_latency.limits": NARROW, "profile_latency.allow_noisy": False}
    params = write_params(tmp_path / "params.yaml", {**FEW, **noisy})
    done = in_process(main, "--params", params, "--out", tmp_path / "out.parquet", "--scratch", tmp_path / "scratch")
    assert done.returncode == ExitCode.UNFIT_ENVIRONMENT
    assert "noise gate is closed" in done.stderr
    assert done.stderr.count("  - ") == 2
    assert "limit 1e-06 %" in done.stderr
    assert "allow_noisy: true" in done.stderr
    assert not (tmp_path / "out.parquet").exists()


def test_allowed_noise_is_recorded_and_shown(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """The file carries the closed gate and the leave to write it, and what is printed does not hide it."""
    noisy = {"profile_latency.limits": NARROW, "profile_latency.allow_noisy": True}
    _, metadata = read_profile(stage(noisy))
    assert not metadata.gate.passed
    assert metadata.gate.allow_noisy
    told = capsys.readouterr().out
    assert "CLOSED, recorded because allow_noisy is set" in told
    assert told.count("NOT OK") == 2


def test_the_stage_knows_its_machine_and_leaves_nothing_but_its_output(stage: Stage, tmp_path: Path) -> None:
    """The file of this very machine lets it measure; the scratch folder holds the lock only."""
    machine = tmp_path / "device.json"
    write_identity(machine)
    stage(machine=machine)
    assert {path.name for path in tmp_path.iterdir()} == {"params.yaml", "device.json", "out.parquet", "scratch"}
    assert {path.name for path in (tmp_path / "scratch").iterdir()} == {"locks"}


def test_the_file_of_another_machine_is_refused_before_measuring(stage: Stage, tmp_path: Path) -> None:
    """A profile made here would be recorded under the other machine."""
    machine = tmp_path / "device.json"
    machine.write_text(json.dumps({**device_identity(), "cpu": "Another CPU"}))
    with pytest.raises(UnfitEnvironmentError, match=r"device\.json is of another machine"):
        stage(machine=machine)
    with pytest.raises(CorruptArtefactError, match="does not exist"):
        stage(machine=tmp_path / "nowhere.json")
    assert not (tmp_path / "out.parquet").exists()


def test_a_profile_from_elsewhere_needs_no_machine_but_its_digest(stage: Stage, tmp_path: Path) -> None:
    """With `source: file` the output is that file, whatever this machine is; a content that DVC does not know of is refused."""
    source = stage(out="elsewhere.parquet")
    machine, taken = tmp_path / "device.json", {"profile_latency.source": "file", "profile_latency.file": str(source)}
    write_identity(machine, profile=source)
    machine.write_text(json.dumps({**json.loads(machine.read_text()), "cpu": "Another CPU"}))
    assert stage(taken, machine=machine).read_bytes() == source.read_bytes()
    machine.write_text("{}")
    with pytest.raises(UnfitEnvironmentError, match="does not hold the SHA-256"):
        stage(taken, machine=machine)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"rounds": 2}, "profile_latency.rounds = 2"),
        ({"most_entries": 469}, "profile_latency.most_entries = 469"),
        ({"source": "file"}, "file is null"),
        ({"ops": 5}, "profile_latency.ops = 5"),
        ({"width_multiple": 3}, "profile_latency.width_multiple = 3"),
        ({"surplus": 1}, "surplus: unknown key"),
        ({"limits": {**NARROW, "mape_pct": 0.0}}, "profile_latency.limits.mape_pct = 0.0"),
        ({"runtime": "onnxruntime", "precision": "bf16"}, "onnxruntime runs fp32"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(value),
)
def test_a_wrong_parameter_is_named(stage: Stage, changes: dict[str, Any], named: str) -> None:
    """Nothing is measured before the parameters are known to be possible."""
    with pytest.raises(BadInputError) as caught:
        stage({f"profile_latency.{name}": value for name, value in changes.items()})
    assert named in str(caught.value)

"""Profiling a device on its own: what its options become, which are refused, and the file that goes home."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dcnas_harness.errors import BadInputError, CorruptArtefactError, ExitCode, UnfitEnvironmentError
from dcnas_harness.process import exclusive_run
from dcnas_latency.files import read_profile
from dcnas_profile_latency import edge
from dcnas_profile_latency.command import parser, run
from dcnas_profile_latency.edge import Request, default_name, profile_this_device, settings_of, show
from dcnas_schema.params import load_params


@pytest.fixture(scope="session")
def request_of() -> Callable[..., Request]:
    """A function that gives the options of a small simulated profile, with changed ones."""
    small = Request(
        out=Path("profile.parquet"),
        params=None,
        device="cpu",
        threads=1,
        runtime="simulated",
        provider=None,
        batch=1,
        image_size=32,
        classes=10,
        precision="fp32",
        memory_format="contiguous",
        rounds=3,
        nets=4,
        allow_noisy=False,
    )

    def make(**changes: Any) -> Request:
        return replace(small, **changes)

    return make


def test_the_options_reach_the_parameters(request_of: Callable[..., Request]) -> None:
    """Each option is where the pipeline stage would look for it."""
    settings = settings_of(
        request_of(
            device="cuda",
            threads=3,
            runtime="torch_eager",
            provider="X",
            batch=32,
            image_size=224,
            classes=100,
            precision="bf16",
            memory_format="channels_last",
            rounds=9,
            nets=50,
            allow_noisy=True,
        )
    )
    section = settings.profile_latency
    assert (settings.device.kind, settings.device.threads) == ("cuda", 3)
    assert (section.runtime, section.provider, section.precision) == ("torch_eager", "X", "bf16")
    assert (section.batch, section.image_size, section.classes) == (32, 224, 100)
    assert (section.memory_format, section.rounds, section.allow_noisy) == ("channels_last", 9, True)
    assert (section.held_out_nets, section.source) == (50, "measure")


def test_the_plan_is_that_of_the_paper_preset(request_of: Callable[..., Request], project: Path) -> None:
    """What the options do not say is measured as in the pipeline, but for the number of nets to fit."""
    theirs = load_params(project / "presets/paper.yaml").profile_latency
    ours = settings_of(request_of()).profile_latency
    optional = {"runtime", "provider", "batch", "image_size", "classes", "precision", "memory_format", "references"}
    chosen = optional | {"rounds", "fit_nets", "held_out_nets", "allow_noisy"}
    assert ours.model_dump(exclude=chosen) == theirs.model_dump(exclude=chosen)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"rounds": 2}, "profile_latency.rounds = 2"),
        ({"batch": 0}, "profile_latency.batch = 0"),
        ({"image_size": 31}, "profile_latency.image_size = 31"),
        ({"classes": 1}, "profile_latency.classes = 1"),
        ({"nets": 3}, "profile_latency.held_out_nets = 3"),
        ({"threads": 0}, "device.threads = 0"),
        ({"runtime": "tensorrt"}, "profile_latency.runtime = 'tensorrt'"),
        ({"precision": "fp16"}, "profile_latency.precision = 'fp16'"),
        ({"memory_format": "nchw"}, "profile_latency.memory_format = 'nchw'"),
        ({"device": "tpu"}, "device.kind = 'tpu'"),
    ],
)
def test_an_option_out_of_range_is_refused(
    request_of: Callable[..., Request], tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    """The option and its value are named, and nothing is made."""
    out = tmp_path / "made/profile.parquet"
    with pytest.raises(BadInputError) as caught:
        profile_this_device(request_of(out=out, **changes))
    assert named in str(caught.value)
    assert "--help" in str(caught.value)
    assert caught.value.exit_code == ExitCode.BAD_INPUT
    assert not out.parent.exists()


def test_every_wrong_option_is_named_at_once(request_of: Callable[..., Request]) -> None:
    """Two slips need one try."""
    with pytest.raises(BadInputError, match=r"batch = 0(.|\n)*rounds = 1"):
        settings_of(request_of(batch=0, rounds=1))


def test_options_that_do_not_go_together_are_named_without_all_the_others(
    request_of: Callable[..., Request],
) -> None:
    """The message says what to change, not the whole parameter section."""
    with pytest.raises(BadInputError, match=r"profile_latency: onnxruntime runs fp32 here") as caught:
        settings_of(request_of(runtime="onnxruntime", precision="bf16"))
    assert "{" not in str(caught.value)


def test_a_parameter_file_decides_alone(
    request_of: Callable[..., Request], write_params: Callable[..., Path], tmp_path: Path
) -> None:
    """With a file the other options do not count: two devices are measured alike."""
    path = write_params(tmp_path / "params.yaml", {"profile_latency.batch": 7, "device.threads": 5})
    settings = settings_of(request_of(params=path, batch=0, threads=0))
    assert settings.profile_latency == load_params(path).profile_latency
    assert (settings.profile_latency.batch, settings.device.threads) == (7, 5)


@pytest.fixture(scope="module")
def made(request_of: Callable[..., Request], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A profile of the simulated device, made as on an edge box."""
    out = tmp_path_factory.mktemp("box") / "home/profile.parquet"
    profile_this_device(request_of(out=out))
    return out


def test_a_box_gets_one_file_to_copy_home(made: Path) -> None:
    """The profile is whole, made by the plan of the paper preset; all else lies in a hidden folder beside it."""
    entries, metadata = read_profile(made)
    assert metadata.gate.passed
    assert metadata.accuracy[0].nets == 4
    assert (metadata.calibration.fitted_on, metadata.calibration.fitted_on_full_depth) == (30, 15)
    assert metadata.setting.classes == 10
    assert len(entries) < 800
    assert {path.name for path in made.parent.iterdir()} == {"profile.parquet", ".dcnas"}


def test_a_profile_is_shown_in_a_few_lines(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Device, setting, table, the error of each kind of net, and every check of the gate."""
    show(made)
    told = capsys.readouterr().out
    _, metadata = read_profile(made)
    assert f"{made}: simulated device, simulated fp32 contiguous, batch 1 at 32x32, 1 threads" in told
    assert f"table: {metadata.plan.entries} entries" in told
    assert "multiples of 16 run" in told
    for one in metadata.accuracy:
        assert f"{one.kind:<6} predicted on 4 held-out nets, 2 of full depth: MAPE {one.mape_pct:.1f} %" in told
    for part in metadata.depths:
        assert f"{part.kind:<6} of {part.depth} depth alone (2): MAPE {part.mape_pct:.1f} %" in told
    assert "noise gate: passed" in told
    assert told.count("    ok  ") == len(metadata.gate.checks)


def test_a_missing_profile_is_not_shown(tmp_path: Path) -> None:
    """The file is named."""
    with pytest.raises(CorruptArtefactError, match=r"nowhere\.parquet"):
        show(tmp_path / "nowhere.parquet")


def test_two_runs_for_one_file_exclude_each_other(request_of: Callable[..., Request], tmp_path: Path) -> None:
    """While another process makes the same profile, this one refuses before it measures."""
    out = tmp_path / "profile.parquet"
    with exclusive_run(out, tmp_path / ".dcnas"), pytest.raises(UnfitEnvironmentError, match="being made by another"):
        profile_this_device(request_of(out=out))


def test_the_command_exits_with_the_code_of_what_went_wrong(in_process: Callable[..., Any], tmp_path: Path) -> None:
    """An option out of range gives 2 and one message, without a traceback."""
    command = parser("dcnas-profile").parse_args(["--rounds", "2", "--out", str(tmp_path / "profile.parquet")])
    done = in_process(lambda: run(command))
    assert done.returncode == ExitCode.BAD_INPUT
    assert "profile_latency.rounds = 2" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Canary references go to a folder of the test."""
    folder = tmp_path_factory.mktemp("state")
    monkeypatch.setenv("DCNAS_STATE_DIR", str(folder))
    return folder


def test_a_profile_is_named_by_device_and_setting(request_of: Callable[..., Request]) -> None:
    """So that the second device's does not fall on the first's."""
    assert default_name(settings_of(request_of())) == "simulated-device-simulated-fp32-batch1-32px-warm.parquet"
    assert "batch7-64px" in default_name(settings_of(request_of(batch=7, image_size=64)))


@pytest.mark.parametrize("changes", [{"batch": 2}, {"runtime": "torch_eager"}])
def test_another_profile_is_not_written_over(
    request_of: Callable[..., Request], made: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """The file that is there is of another setting or device: refused before anything is measured, and left as it is."""
    out = Path(shutil.copyfile(made, tmp_path / "profile.parquet"))
    with pytest.raises(BadInputError, match="is there already, the profile of simulated device") as caught:
        profile_this_device(request_of(out=out, **changes))
    assert "--out" in str(caught.value)
    assert out.read_bytes() == made.read_bytes()


def test_what_is_no_profile_is_not_written_over(request_of: Callable[..., Request], tmp_path: Path) -> None:
    """Somebody's notes are not ours to replace."""
    out = tmp_path / "profile.parquet"
    out.write_text("mine")
    with pytest.raises(BadInputError, match="no latency profile of this version"):
        profile_this_device(request_of(out=out))
    assert out.read_text() == "mine"


def test_all_profiles_of_a_user_share_what_the_machine_can_do(
    request_of: Callable[..., Request], tmp_path: Path, own_state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever a profile is written, the canary's good days are those of this machine."""
    asked: list[Any] = []
    monkeypatch.setattr(
        edge, "profile_job", lambda _settings, _out, _scratch, canary_folder: asked.append(canary_folder)
    )
    monkeypatch.setattr(edge, "print_summary", lambda *_: None)
    for name in ("a", "b"):
        profile_this_device(request_of(out=tmp_path / name / "profile.parquet"))
    assert asked == [own_state / "canary"] * 2


def test_reference_nets_are_options(request_of: Callable[..., Request]) -> None:
    """Given once or more on the command line, they reach the parameters; one that is unknown is named."""
    words = ["--reference", "resnet18", "--reference", "mobilenet_v2"]
    assert parser("dcnas-profile").parse_args(words).reference == ["resnet18", "mobilenet_v2"]
    section = settings_of(request_of(runtime="torch_eager", reference=("resnet18",))).profile_latency
    assert section.references == ("resnet18",)
    with pytest.raises(BadInputError, match="vgg"):
        settings_of(request_of(runtime="torch_eager", reference=("vgg",)))

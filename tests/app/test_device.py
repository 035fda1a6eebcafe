"""`dcnas device`: the file on which the pipeline depends says which machine this is, and which profile is taken instead of measuring."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dcnas_app.main import app
from dcnas_latency.identity import device_identity

NAMED = {"profile_latency.source": "file", "profile_latency.file": "profiles/box.parquet"}


@pytest.fixture
def device(
    tmp_path: Path, write_params: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[dict[str, object], str]]:
    """A function that runs the command in a project with changed parameters and returns what the file holds, and what was printed."""
    (tmp_path / "presets").mkdir()
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "profiles").mkdir()
    monkeypatch.chdir(tmp_path / "profiles")

    def run(changes: dict[str, object]) -> tuple[dict[str, object], str]:
        write_params(tmp_path / "params.yaml", changes)
        done = CliRunner().invoke(app, ["device"])
        assert done.exit_code == 0, done.output
        return json.loads((tmp_path / "data/device.json").read_text()), done.output

    return run


def test_who_measures_gets_the_machine_alone(device: Callable[..., tuple[dict[str, object], str]]) -> None:
    """A second call changes nothing and says nothing."""
    found, told = device({})
    assert found == device_identity()
    assert "device.json is now of this machine" in told
    assert device({})[1] == ""


def test_another_profile_under_the_same_name_changes_the_file(
    device: Callable[..., tuple[dict[str, object], str]], tmp_path: Path
) -> None:
    """The path is relative to the project, wherever the command runs; back to measuring, the name goes."""
    file = tmp_path / "profiles/box.parquet"
    file.write_bytes(b"one")
    first, _ = device(NAMED)
    file.write_bytes(b"two")
    second, told = device(NAMED)
    assert first != second
    assert told
    assert {**device_identity(), "profile": second["profile"]} == second
    assert device({})[0] == device_identity()

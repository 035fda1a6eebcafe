"""Which machine this is: a file that stays as it is on the same machine, and tells of another one."""

import hashlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dcnas_harness.errors import CorruptArtefactError, ExitCode, UnfitEnvironmentError
from dcnas_latency import host, identity
from dcnas_latency.identity import device_identity, require_named_profile, require_this_machine, write_identity
from dcnas_latency.nvml import NvmlDevice
from dcnas_latency.readers import NotGivenError


class Gpu:
    """What NVML tells of one GPU, as far as the identity asks."""

    def __init__(self, uuid: str) -> None:
        self._uuid = uuid

    def uuid(self) -> str:
        """Return the UUID."""
        return self._uuid

    def card_readers(self) -> dict[str, Any]:
        """Return the reader of the driver's version."""
        return {"driver": lambda: "580.1"}


@pytest.fixture(autouse=True)
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[Gpu]:
    """The GPUs of the machine, none at first; a test may add some."""
    found: list[Gpu] = []

    def by_index(_cls: type, index: int) -> Gpu:
        if index >= len(found):
            raise NotGivenError("no such GPU")
        return found[index]

    monkeypatch.setattr(NvmlDevice, "by_index", classmethod(by_index))
    return found


def test_the_identity_is_the_machines() -> None:
    """Processor, cores and system; no GPU where NVML finds none."""
    found = device_identity()
    assert found["cores"] == os.cpu_count()
    assert found["system"] == f"{platform.system()} {platform.machine()}"
    assert found["cpu"] == identity._cpu()
    assert found["gpus"] == []


def test_every_gpu_belongs_to_the_identity(gpus: list[Gpu]) -> None:
    """Each by its UUID, with the driver, in NVML's order."""
    gpus += [Gpu("GPU-2"), Gpu("GPU-1")]
    assert device_identity()["gpus"] == [{"uuid": "GPU-2", "driver": "580.1"}, {"uuid": "GPU-1", "driver": "580.1"}]


def test_a_processor_without_a_name_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system does not tell the model, the identity says null rather than failing."""
    monkeypatch.setattr(host, "_PROC", Path("/nowhere"))
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert device_identity()["cpu"] is None


def test_the_file_is_written_once(tmp_path: Path) -> None:
    """The first call writes it, the second leaves it as it is: DVC sees no change, not even of its time."""
    path = tmp_path / "data/device.json"
    assert write_identity(path)
    before = path.stat()
    assert not write_identity(path)
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    require_this_machine(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"version": 1}'])
def test_a_file_that_is_no_identity_is_written_anew(tmp_path: Path, text: str) -> None:
    """A damaged or empty file is replaced."""
    path = tmp_path / "device.json"
    path.write_text(text)
    assert write_identity(path)
    assert json.loads(path.read_text()) == device_identity()


def test_the_file_of_another_machine_is_rewritten(tmp_path: Path, gpus: list[Gpu]) -> None:
    """After a GPU was added the file is of another machine: refused by who measures, rewritten by who asks for it."""
    path = tmp_path / "device.json"
    write_identity(path)
    gpus.append(Gpu("GPU-1"))
    with pytest.raises(UnfitEnvironmentError, match="another machine than this one: gpus differ") as caught:
        require_this_machine(path)
    assert caught.value.exit_code == ExitCode.UNFIT_ENVIRONMENT
    assert "dcnas device" in str(caught.value)
    assert write_identity(path)
    require_this_machine(path)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"cpu": "Another CPU"}, "cpu"),
        ({"cores": 4096, "cpu": "Another CPU"}, "cores, cpu"),
        ({"version": 0}, "version"),
        ({"surplus": 1}, "surplus"),
    ],
)
def test_what_differs_is_named(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    """All fields that differ, one that this version does not know too."""
    path = tmp_path / "device.json"
    path.write_text(json.dumps({**device_identity(), **changes}))
    with pytest.raises(UnfitEnvironmentError, match=f": {named} differ"):
        require_this_machine(path)


def test_a_file_that_holds_something_else_is_of_another_machine(tmp_path: Path) -> None:
    """JSON that is no object differs in everything."""
    path = tmp_path / "device.json"
    path.write_text("[1]")
    with pytest.raises(UnfitEnvironmentError, match="cores, cpu, gpus, system, version differ"):
        require_this_machine(path)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    """Measuring asks for the file and does not make it up."""
    with pytest.raises(CorruptArtefactError, match=r"device\.json does not exist"):
        require_this_machine(tmp_path / "device.json")


def test_the_content_of_a_named_profile_is_part_of_the_file(tmp_path: Path) -> None:
    """Another profile copied to the same path changes the file on which the pipeline depends; the same one does not."""
    path, named = tmp_path / "device.json", Path("profiles/box.parquet")
    (tmp_path / "profiles").mkdir()
    (tmp_path / named).write_bytes(b"one")
    assert write_identity(path, profile=named, root=tmp_path)
    assert not write_identity(path, profile=named, root=tmp_path)
    digest = hashlib.sha256(b"one").hexdigest()
    assert json.loads(path.read_text()) == {
        **device_identity(),
        "profile": {"file": "profiles/box.parquet", "sha256": digest},
    }
    (tmp_path / named).write_bytes(b"two")
    assert write_identity(path, profile=named, root=tmp_path)


def test_a_profile_that_changed_since_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken as it is now, it would be recorded under the digest of what it was; another name and a file without any are refused too."""
    monkeypatch.chdir(tmp_path)
    path, named = Path("device.json"), Path("box.parquet")
    named.write_bytes(b"one")
    write_identity(path, profile=named)
    require_named_profile(path, named)
    for spoil in (
        lambda: named.write_bytes(b"two"),
        lambda: write_identity(path, profile=Path("other.parquet")),
        lambda: write_identity(path),
        lambda: path.write_text("[]"),
    ):
        spoil()
        with pytest.raises(UnfitEnvironmentError, match=r"does not hold the SHA-256 of box\.parquet") as caught:
            require_named_profile(path, named)
        assert "dcnas device" in str(caught.value)


def test_a_profile_that_is_missing_is_left_to_the_stage(tmp_path: Path) -> None:
    """The file says that there is none; who takes it says what is wrong."""
    path = tmp_path / "device.json"
    write_identity(path, profile=Path("nowhere.parquet"), root=tmp_path)
    assert json.loads(path.read_text())["profile"] == {"file": "nowhere.parquet", "sha256": None}


def test_measuring_asks_for_a_file_that_names_no_profile(tmp_path: Path) -> None:
    """Else the measured profile would go stale when the name leaves the file."""
    path = tmp_path / "device.json"
    write_identity(path, profile=Path("nowhere.parquet"), root=tmp_path)
    with pytest.raises(UnfitEnvironmentError, match=": profile differ"):
        require_this_machine(path)


def test_asking_needs_no_torch() -> None:
    """`dcnas device` runs before every pipeline: it must not wait for torch."""
    code = "import sys, dcnas_latency.identity as i; i.device_identity(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

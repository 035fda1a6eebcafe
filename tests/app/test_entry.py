"""The installed command: one message and the code of its class, however it is stopped."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).with_name("dcnas")


@pytest.mark.parametrize(
    ("sent", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_ends_in_one_message(tmp_path: Path, sent: signal.Signals, code: int, word: str) -> None:
    """Stopped while it works, the command says that what was complete is kept, without a traceback."""
    fifo = tmp_path / "params.yaml"
    os.mkfifo(fifo)  # reading it never ends
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "presets").mkdir()
    process = subprocess.Popen([COMMAND, "params"], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    with fifo.open("w"):  # opens when the command has come to read it
        time.sleep(0.1)
        process.send_signal(sent)
        _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (
        code,
        f"{word}: what was complete is kept; run the same command again to go on\n",
    )


def test_a_wrong_word_is_explained(tmp_path: Path) -> None:
    """An unknown command exits 2 and shows the usage, with no traceback."""
    done = subprocess.run([COMMAND, "nonsense"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "No such command" in done.stderr
    assert "Traceback" not in done.stderr

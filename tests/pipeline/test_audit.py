"""From a printed cell to its data: the walk holds on an honest run and names the link that was tampered with."""

import json
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from dcnas_app.main import app
from dcnas_lineage.cells import read_record

Command = Callable[..., subprocess.CompletedProcess[str]]
Changed = Callable[[Path], AbstractContextManager[Path]]
Audit = Callable[..., subprocess.CompletedProcess[str]]
CELL = ["audit", "results/table_1", "--cell", "DC-Net reduced integrated,PSNR"]
WEIGHTS = "data/retrain/dcnet_reduced_integrated/0/weights.safetensors"


@pytest.fixture
def audited(finished_once: Path, in_process: Command) -> Audit:
    """A function that audits the cell of `CELL`, or another one, in this process with all files read anew."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        read_record.cache_clear()
        return in_process(app, *(arguments or CELL), cwd=finished_once)

    return run


def blamed(said: str) -> str:
    """Return the line that names the cell's first edge that does not hold."""
    return next(line for line in said.splitlines() if line.startswith("BROKEN results/"))


def flip_a_byte(path: Path, position: int = -100) -> None:
    """Change one byte of a file and keep its length."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_an_honest_cell_holds_down_to_the_data(smoke: Path, command: Command) -> None:
    """The walk prints table, record, weights, log and scenes with their hashes, and exits 0."""
    done = command(["dcnas", *CELL], smoke)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in (
        "results/table_1.md",
        "record.parquet",
        WEIGHTS,
        "log.parquet",
        "digits/test.parquet",
        "digits/train.parquet",
    ):
        assert name in done.stdout
    assert done.stdout.rstrip().endswith("HOLDS")


def test_the_command_names_a_broken_link(finished_once: Path, changed: Changed, command: Command) -> None:
    """The command as it is installed exits 12 and names the file in which a byte was changed."""
    with changed(finished_once / WEIGHTS) as path:
        flip_a_byte(path)
        done = command(["dcnas", *CELL], finished_once)
    assert done.returncode == 12
    assert "BROKEN" in done.stdout
    assert WEIGHTS in blamed(done.stdout)


@pytest.mark.parametrize("table", ["table_1", "table_7", "table_8"])
def test_every_honest_cell_holds(audited: Audit, table: str) -> None:
    """No cell of an undisturbed run is called broken."""
    done = audited("audit", f"results/{table}", "--all")
    assert done.returncode == 0, done.stdout
    assert "0 are stale, 0 cannot be verified, 0 are broken" in done.stdout


@pytest.mark.parametrize(
    "path",
    [
        WEIGHTS,
        "data/retrain/dcnet_reduced_integrated/0/log.parquet",
        "data/evaluate/dcnet_reduced_integrated/0/record.parquet",
        "data/generate_data/digits/test.parquet",
        "data/generate_data/digits/train.parquet",
    ],
)
def test_a_changed_byte_is_named(finished_once: Path, changed: Changed, audited: Audit, path: str) -> None:
    """One changed byte anywhere on the way breaks the cell, with exit 12 and the file's name; put back, it holds again."""
    with changed(finished_once / path):
        flip_a_byte(finished_once / path)
        done = audited()
    assert done.returncode == 12
    assert "BROKEN" in done.stdout
    assert path in blamed(done.stdout)
    assert audited().returncode == 0


def test_a_cell_typed_by_hand_is_named(finished_once: Path, changed: Changed, audited: Audit) -> None:
    """A number edited in the printed table no longer follows from its sources."""
    text = printed(finished_once)
    with changed(finished_once / "results/table_1.md") as table:
        table.write_text(table.read_text().replace(text, "99.99"))
        done = audited()
    assert done.returncode == 12
    assert "99.99" in done.stdout


def test_a_number_forged_in_table_and_cell_map_is_named(finished_once: Path, changed: Changed, audited: Audit) -> None:
    """Editing the cell map along with the table does not help: the cell is derived from its records again."""
    text, results = printed(finished_once), finished_once / "results"
    with changed(results / "table_1.md") as table, changed(results / "table_1.cells.json") as cell_map:
        table.write_text(table.read_text().replace(text, "99.99"))
        cell_map.write_text(cell_map.read_text().replace(f'"{text}"', '"99.99"'))
        done = audited()
    assert done.returncode == 12
    assert "derived again" in done.stdout


def test_weights_of_another_model_are_named(finished_once: Path, changed: Changed, audited: Audit) -> None:
    """Swapped checkpoints break the link between weights and dvc.lock."""
    other = finished_once / "data/retrain/dcnet_reduced_sequential/0/weights.safetensors"
    with changed(finished_once / WEIGHTS) as path:
        path.write_bytes(other.read_bytes())
        done = audited()
    assert done.returncode == 12
    assert WEIGHTS in blamed(done.stdout)


def test_a_missing_file_is_named(finished_once: Path, changed: Changed, audited: Audit) -> None:
    """A file that is not there breaks the walk with a word on how to get it."""
    with changed(finished_once / WEIGHTS) as path:
        path.unlink()
        done = audited()
    assert done.returncode == 11
    assert "dvc pull" in done.stdout


def test_touched_files_still_hold(finished_once: Path, audited: Audit) -> None:
    """Times of files mean nothing: a fresh copy with other times holds."""
    for path in (finished_once / "data").rglob("*.parquet"):
        path.touch()
    assert audited().returncode == 0


def test_an_unknown_cell_or_table_is_refused(audited: Audit) -> None:
    """A cell or table that does not exist is bad input (exit 2), and the nearest are named."""
    done = audited("audit", "results/table_1", "--cell", "DC-Net reduced integrated,PSNT")
    assert (done.returncode, "PSNR (dB)" in done.stderr) == (2, True)
    done = audited("audit", "results/table_9", "--all")
    assert (done.returncode, "results/table_1" in done.stderr) == (2, True)


def printed(root: Path) -> str:
    """Return the text of the audited cell."""
    cells = json.loads((root / "results/table_1.cells.json").read_text())["cells"]
    (text,) = (c["text"] for c in cells if (c["row"], c["column"]) == ("DC-Net reduced integrated", "PSNR (dB)"))
    return str(text)


@pytest.mark.long
def test_tables_are_made_again_and_compared(finished: Path, command: Command) -> None:
    """
    Of an honest project the same bits; with other code than made them, the files that differ are named.

    Nothing of this is left in the project.
    """
    again = ["dcnas", "audit", "results/table_7", "--all", "--rerun"]
    before = command(["git", "status", "--porcelain"], finished).stdout
    done = command(again, finished)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "HOLDS tabulate, run again" in done.stdout
    assert "HOLDS tabulate_photos, run again" in done.stdout
    assert command(["git", "status", "--porcelain"], finished).stdout == before
    layout = finished / "stages/tabulate/src/dcnas_tabulate/layout.py"
    title = "Table 1: DC-Net, integrated and sequential"
    layout.write_text(layout.read_text().replace(title, "Table 1: DC-Net"))
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.invalid"]
    assert command(["git", *identity, "commit", "--quiet", "--all", "--message", "edit"], finished).returncode == 0
    done = command(again, finished)
    assert done.returncode == 12, done.stdout + done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("BROKEN tabulate, run again"))
    assert "results/table_1.md" in line
    assert "results/table_7.md" not in line
    assert "HOLDS tabulate_photos, run again" in done.stdout

"""From a printed cell to its data: the walk holds on an honest run and names the link that was tampered with."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., subprocess.CompletedProcess[str]]
CELL = ["dcnas", "audit", "results/table_1", "--cell", "DC-Net reduced integrated,PSNR"]
WEIGHTS = "data/retrain/dcnet_reduced_integrated/0/weights.safetensors"


def flip_a_byte(path: Path, position: int = -100) -> None:
    """Change one byte of a file and keep its length."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_an_honest_cell_holds_down_to_the_data(smoke: Path, command: Command) -> None:
    """The walk prints table, record, weights, log and scenes with their hashes, and exits 0."""
    done = command(CELL, smoke)
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


@pytest.mark.parametrize("table", ["table_1", "table_7", "table_8"])
def test_every_honest_cell_holds(smoke: Path, command: Command, table: str) -> None:
    """No cell of an undisturbed run is called broken."""
    done = command(["dcnas", "audit", f"results/{table}", "--all"], smoke)
    assert done.returncode == 0, done.stdout
    assert "0 are broken" in done.stdout


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
def test_a_changed_byte_is_named(finished: Path, command: Command, path: str) -> None:
    """One changed byte anywhere on the way breaks the cell, with exit 1 and the file's name."""
    flip_a_byte(finished / path)
    done = command(CELL, finished)
    assert done.returncode == 1
    assert "BROKEN" in done.stdout
    assert path in done.stdout.splitlines()[-1]


def test_a_cell_typed_by_hand_is_named(finished: Path, command: Command) -> None:
    """A number edited in the printed table no longer follows from its sources."""
    table = finished / "results/table_1.md"
    text = next(
        c["text"] for c in cells(finished) if c["row"] == "DC-Net reduced integrated" and c["column"] == "PSNR (dB)"
    )
    table.write_text(table.read_text().replace(text, "99.99"))
    done = command(CELL, finished)
    assert done.returncode == 1
    assert "99.99" in done.stdout


def test_a_number_forged_in_table_and_cell_map_is_named(finished: Path, command: Command) -> None:
    """Editing the cell map along with the table does not help: the cell is derived from its records again."""
    text = next(
        c["text"] for c in cells(finished) if c["row"] == "DC-Net reduced integrated" and c["column"] == "PSNR (dB)"
    )
    for suffix in (".md", ".cells.json"):
        path = finished / f"results/table_1{suffix}"
        path.write_text(
            path.read_text().replace(
                f'"{text}"' if suffix == ".cells.json" else text, '"99.99"' if suffix == ".cells.json" else "99.99"
            )
        )
    done = command(CELL, finished)
    assert done.returncode == 1
    assert "derived again" in done.stdout


def test_weights_of_another_model_are_named(finished: Path, command: Command) -> None:
    """Swapped checkpoints break the link between weights and dvc.lock."""
    shutil.copyfile(finished / "data/retrain/dcnet_reduced_sequential/0/weights.safetensors", finished / WEIGHTS)
    done = command(CELL, finished)
    assert done.returncode == 1
    assert WEIGHTS in done.stdout.splitlines()[-1]


def test_a_missing_file_is_named(finished: Path, command: Command) -> None:
    """A file that is not there breaks the walk with a word on how to get it."""
    (finished / WEIGHTS).unlink()
    done = command(CELL, finished)
    assert done.returncode == 1
    assert "dvc pull" in done.stdout


def test_touched_files_still_hold(finished: Path, command: Command) -> None:
    """Times of files mean nothing: a fresh copy with other times holds."""
    for path in (finished / "data").rglob("*.parquet"):
        path.touch()
    assert command(CELL, finished).returncode == 0


def test_an_unknown_cell_or_table_is_refused(smoke: Path, command: Command) -> None:
    """A cell or table that does not exist is bad input (exit 2), and the nearest are named."""
    done = command(["dcnas", "audit", "results/table_1", "--cell", "DC-Net reduced integrated,PSNT"], smoke)
    assert (done.returncode, "PSNR (dB)" in done.stderr) == (2, True)
    done = command(["dcnas", "audit", "results/table_9", "--all"], smoke)
    assert (done.returncode, "results/table_1" in done.stderr) == (2, True)


def cells(root: Path) -> list[dict[str, str]]:
    """Return the cells of Table 1's cell map."""
    found: list[dict[str, str]] = json.loads((root / "results/table_1.cells.json").read_text())["cells"]
    return found

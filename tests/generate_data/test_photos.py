"""The pipeline stage generate_data with photographs: its command line, what it says of bad files, and how it ends without a section."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dcnas_data.photos import read_photos
from dcnas_generate_data import write_photos
from dcnas_generate_data.__main__ import main
from dcnas_schema.params import digest_of
from dcnas_schema.photo_params import ParquetColumns, PhotosParams
from dcnas_schema.photos import PHOTO_SPLITS

Python = Callable[..., subprocess.CompletedProcess[str]]


def params(**changes: Any) -> PhotosParams:
    """Return a small set, with changes."""
    values: dict[str, Any] = {
        "source": "demo",
        "root": None,
        "files": (),
        "columns": None,
        "train_list": None,
        "validation_list": None,
        "size": 32,
        "encoding": "png",
        "validation_share": 0.2,
        "test_share": 0.2,
        "most": {"train": 4, "validation": 2, "test": 2},
        "most_classes": 3,
        "seed": 5,
    }
    return PhotosParams.model_validate({**values, **changes})


def test_set_photos_writes_photographs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    write_params: Callable[..., Path],
) -> None:
    """`--set photos` writes the three splits of the section, with their provenance, and says how far it is."""
    section = params()
    monkeypatch.setattr(write_photos, "photos_section", lambda _params: section)
    out, file = tmp_path / "out", write_params(tmp_path / "params.yaml")
    arguments = ["--set", "photos", "--params", file, "--out", out, "--scratch", tmp_path / "scratch"]
    monkeypatch.setattr(sys, "argv", ["dcnas_generate_data", *map(str, arguments)])
    main()
    assert "generate_data photos (demo): 24/24 done train 12, validation 6, test 6" in capsys.readouterr().out
    for split in PHOTO_SPLITS:
        found = read_photos(out / f"{split}.parquet").metadata.provenance
        assert (found.stage, found.item, found.seed) == ("generate_data", f"photos/{split}", 5)
        assert found.params_sha256 == digest_of(section)


def test_without_a_section_nothing_is_made(tmp_path: Path, python: Python, write_params: Callable[..., Path]) -> None:
    """Parameters that name no photographs exit 2 with the key and a remedy."""
    file = write_params(tmp_path / "params.yaml")
    done = python(
        "-m", "dcnas_generate_data", "--set", "photos", "--params", file, "--out", tmp_path / "out", cwd=tmp_path
    )
    assert done.returncode == 2
    assert "generate_data.photos" in done.stderr
    assert "remedy" in done.stderr
    assert not (tmp_path / "out").exists()


def test_refused_files_are_named_on_the_console(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Count, reasons and the first names go to stderr; the run goes on to the end; a table's own digest is in the provenance."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from dcnas_data.photo_demo import PHOTOGRAPHS, load_photograph
    from dcnas_data.photo_files import encode

    photograph = load_photograph(PHOTOGRAPHS[0])
    images = [
        encode(photograph.crop((40 * i, 40 * j, 40 * i + 40, 40 * j + 40)), "png") for j in range(2) for i in range(8)
    ]
    images += [b"broken"] * 4
    file = tmp_path / "mine.parquet"
    pq.write_table(pa.table({"image": images, "label": [0, 1] * 10}), file)
    columns = ParquetColumns(image="image", label="label", split=None, name=None)
    section = params(source="parquet", files=(str(file),), columns=columns, most=None, most_classes=None)
    write_photos.write_photo_splits(section, tmp_path / "out")
    err = capsys.readouterr().err
    assert err.count("not an image") >= 4
    assert "pictures refused" in err
    assert "mine.parquet#1" in err
    for split in PHOTO_SPLITS:
        assert list(read_photos(tmp_path / "out" / f"{split}.parquet").metadata.provenance.inputs) == [file.as_posix()]

"""The pipeline stage generate_data with photographs: its command line, its provenance, what it says of bad files."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dcnas_data.photos import read_photos
from dcnas_generate_data.__main__ import main
from dcnas_generate_data.write_photos import write_photo_splits
from dcnas_harness.files import sha256_of
from dcnas_schema.params import digest_of
from dcnas_schema.photo_params import ParquetColumns, PhotosParams
from dcnas_schema.photos import PHOTO_SPLITS
from dcnas_schema.provenance import Provenance


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
    """`--set photos` writes the three splits of its section, their provenance beside them, and says how far it is."""
    section = params()
    changes = {
        "generate_data.photos": section.model_dump(mode="json"),
        "search_supernet.batch_size": 2,
        "retrain_photos.batch_size": 2,
    }
    out, file = tmp_path / "out", write_params(tmp_path / "params.yaml", changes)
    arguments = ["--set", "photos", "--params", file, "--out", out, "--scratch", tmp_path / "scratch"]
    monkeypatch.setattr(sys, "argv", ["dcnas_generate_data", *map(str, arguments)])
    main()
    assert "generate_data photos (demo): 24/24 done train 12, validation 6, test 6" in capsys.readouterr().out
    assert [read_photos(out / f"{split}.parquet").metadata.images for split in PHOTO_SPLITS] == [12, 6, 6]
    made = read_provenance(out)
    assert (made.stage, made.item, made.seed) == ("generate_photos", "photos", 5)
    assert made.params_sha256 == digest_of(section)


def test_the_splits_are_the_same_bytes_at_another_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What changes from commit to commit stands beside the splits, not in them: nothing below is stale."""
    from dcnas_lineage import collect

    for commit in ("one", "two"):
        monkeypatch.setattr(collect, "_git_state", lambda commit=commit: (commit, ()))
        write_photo_splits(params(), tmp_path / commit)
    assert [read_provenance(tmp_path / commit).commit for commit in ("one", "two")] == ["one", "two"]
    for split in PHOTO_SPLITS:
        assert len({sha256_of(tmp_path / commit / f"{split}.parquet") for commit in ("one", "two")}) == 1


def read_provenance(folder: Path) -> Provenance:
    """Return what the set says of its making."""
    return Provenance.model_validate_json((folder / "provenance.json").read_bytes())


def test_refused_files_are_named_on_the_console(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Count, reasons and the first names go to stderr; the run goes on to the end; the user's table is in the provenance."""
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
    write_photo_splits(section, tmp_path / "out")
    err = capsys.readouterr().err
    assert err.count("not an image") >= 4
    assert "pictures refused" in err
    assert "mine.parquet#1" in err
    assert list(read_provenance(tmp_path / "out").inputs) == [file.as_posix()]

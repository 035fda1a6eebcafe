"""A latency profile on disk: whole and possible, or refused with the row; and never used for another setting."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import RootModel

from dcnas_harness.errors import BadInputError, CorruptArtefactError
from dcnas_latency.files import read_profile, require_setting, write_profile
from dcnas_latency.predictor import Predictor
from dcnas_schema.genotype import block_key, parts_of, uniform_genotype
from dcnas_schema.latency import (
    DEPTHS,
    ENTRIES,
    Accuracy,
    Calibration,
    DepthAccuracy,
    Entry,
    Gate,
    GateCheck,
    LatencyProtocol,
    LatencySetting,
    NetTiming,
    PlanReport,
    ProfileMetadata,
)
from dcnas_schema.parquet import with_metadata, write_parquet
from dcnas_schema.provenance import DeviceCard, DeviceState, Provenance
from dcnas_schema.space import NET_KINDS, PLACES

GENOTYPE = uniform_genotype("k3_e3_se", 3)
PARTS = tuple(dict.fromkeys(parts_of("dc_nas", GENOTYPE, height=64, width=64, classes=10)))
FIGURES = ("median_ms", "low_ms", "high_ms", "min_ms", "p90_ms")


def entry(part: Any, ms: float, role: str = "plan") -> Entry:
    """Return an entry."""
    return Entry.model_validate(
        {
            "key": part.key,
            "mid_channels": part.mid_channels,
            "role": role,
            **{name: ms for name in FIGURES},
            "mad_ms": 0.25,
            "raw": 8,
            "kept": 7,
            "builds_differ_pct": 1.5,
        }
    )


@pytest.fixture
def entries() -> tuple[Entry, ...]:
    """The parts of a joint net, each a little dearer than the one before, and one held-out width."""
    held_out = PARTS[2]._replace(mid_channels=40)
    plan = [entry(part, 0.1 * number) for number, part in enumerate(PARTS, start=1)]
    return (*plan, entry(held_out, 0.3, "held_out"))


@pytest.fixture
def metadata(card: DeviceCard, provenance: Callable[..., Provenance]) -> ProfileMetadata:
    """What a profile of these entries says of itself."""
    kinds = {kind: 1.0 for kind in NET_KINDS}
    figures = {"measured_ms": 5.0, "low_ms": 4.9, "high_ms": 5.1, "table_ms": 4.8, "predicted_ms": 5.0}
    return ProfileMetadata(
        device=card,
        setting=LatencySetting(
            runtime="torch_eager",
            batch=32,
            precision="fp32",
            memory_format="channels_last",
            height=64,
            width=64,
            classes=10,
            threads=2,
        ),
        protocol=LatencyProtocol(
            in_context=True,
            processes=2,
            rounds=8,
            warm_calls=1,
            clock="wall",
            canary_band_pct=15.0,
            canary_reference_ms=0.3,
            rejected={"canary": 1},
            seconds=12.5,
        ),
        states=((0.0, DeviceState(load_average=0.5)), (12.5, DeviceState(load_average=1.0))),
        plan=PlanReport(
            entries=len(PARTS),
            held_out=1,
            width_multiple=8,
            modulus=16,
            modulus_gain_pct=3.0,
            mean_error_pct=0.5,
            bias_pct=0.1,
            worst_error_pct=1.5,
        ),
        calibration=Calibration(
            scale=kinds,
            overhead_ms=kinds,
            spread_pct=kinds,
            interval_pct=kinds,
            confidence=0.95,
            fitted_on=12,
            fitted_on_full_depth=6,
        ),
        accuracy=tuple(
            Accuracy(
                kind=kind,
                nets=4,
                full_depth=2,
                mape_pct=1.0,
                table_mape_pct=2.0,
                bias_pct=0.5,
                worst_pct=2.0,
                within_5_pct=100.0,
                within_10_pct=100.0,
                spearman=1.0,
                kendall=1.0,
                inside_interval_pct=75.0,
            )
            for kind in NET_KINDS
        ),
        depths=tuple(
            DepthAccuracy(
                kind=kind,
                depth=depth,
                nets=2,
                mape_pct=1.0,
                table_mape_pct=2.0,
                bias_pct=0.5,
                worst_pct=2.0,
                spearman=1.0,
            )
            for kind in NET_KINDS
            for depth in DEPTHS
        ),
        nets=(
            NetTiming(
                kind="dc_nas",
                genotype=GENOTYPE,
                use="fit",
                kept=7,
                predicted_low_ms=4.8,
                predicted_high_ms=5.2,
                **figures,
            ),
        ),
        gate=Gate(
            checks=(GateCheck(name="drift", value=1.0, limit=5.0, unit="%", passed=True),),
            allow_noisy=False,
        ),
        provenance=provenance(stage="profile_latency", item=""),
    )


@pytest.fixture
def path(tmp_path: Path, entries: tuple[Entry, ...], metadata: ProfileMetadata) -> Path:
    """A profile on disk."""
    write_profile(tmp_path / "profile.parquet", entries, metadata)
    return tmp_path / "profile.parquet"


def rewrite(path: Path, metadata: ProfileMetadata, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    """Write the profile with changed rows, checksums and all, as a wrong writer would."""
    rows = pq.read_table(path).to_pylist()
    change(rows)
    batch = pa.RecordBatch.from_pylist(rows, schema=ENTRIES)
    write_parquet(path, with_metadata(ENTRIES, metadata), [batch])


def test_a_profile_comes_back_as_it_was_written(
    path: Path, entries: tuple[Entry, ...], metadata: ProfileMetadata
) -> None:
    """Entries and metadata are equal to what was written, and two writes give the same bytes."""
    assert read_profile(path) == (entries, metadata)
    before = path.read_bytes()
    write_profile(path, *read_profile(path))
    assert path.read_bytes() == before


def test_a_predictor_comes_from_the_file_alone(path: Path) -> None:
    """Sum over the plan's entries times scale plus overhead, with the modulus and the interval that the file holds."""
    predictor = Predictor.of(*read_profile(path))
    parts = parts_of("dc_nas", GENOTYPE, height=64, width=64, classes=10)
    table = {part: 0.1 * number for number, part in enumerate(PARTS, start=1)}
    total = sum(table[part] for part in parts)
    found = predictor.predict("dc_nas", parts)
    assert found.ms == pytest.approx(total + 1.0)
    assert found.high_ms == pytest.approx(1.01 * found.ms)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_profile_is_refused(path: Path, share: float) -> None:
    """A file cut anywhere is damaged, and named."""
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CorruptArtefactError, match=r"profile\.parquet is damaged"):
        read_profile(path)


def test_a_flipped_bit_is_noticed_wherever_it_lies(
    path: Path, entries: tuple[Entry, ...], metadata: ProfileMetadata
) -> None:
    """Of a flip in every 97th byte, either the file is refused or nothing that it says has changed."""
    whole, refused = path.read_bytes(), 0
    places = range(4, len(whole), 97)
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= 0x10
        path.write_bytes(changed)
        try:
            assert read_profile(path) == (entries, metadata)
        except CorruptArtefactError:
            refused += 1
    assert refused > 0.5 * len(places)


def test_a_missing_profile_is_refused(tmp_path: Path) -> None:
    """The path is named, with what makes the file."""
    with pytest.raises(CorruptArtefactError, match=r"nowhere\.parquet does not exist"):
        read_profile(tmp_path / "nowhere.parquet")


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("column", FIGURES)
def test_an_impossible_latency_is_refused_with_its_row(
    path: Path, metadata: ProfileMetadata, column: str, value: float
) -> None:
    """Zero, negative, no number and infinity: the row, the column and the value are named."""
    rewrite(path, metadata, lambda rows: rows[3].update({column: value}))
    with pytest.raises(CorruptArtefactError, match=rf"impossible entry in row 3: {column} = {value!r}"):
        read_profile(path)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"mad_ms": -0.1}, "mad_ms = -0.1"),
        ({"part": "third_stem"}, "key.part = 'third_stem'"),
        ({"role": "maybe"}, "role = 'maybe'"),
        ({"activation": "gelu"}, "key.activation = 'gelu'"),
        ({"raw": 0}, "raw = 0"),
        ({"kept": -1}, "kept = -1"),
        ({"kept": 9}, "9 of 8 samples kept"),
        ({"mid_channels": None}, "a block needs a width"),
        ({"mid_channels": 0}, "mid_channels = 0"),
    ],
)
def test_an_entry_that_makes_no_sense_is_refused_with_its_row(
    path: Path, metadata: ProfileMetadata, changes: dict[str, Any], named: str
) -> None:
    """Unknown words, counts that cannot be, a block without a width."""
    rewrite(path, metadata, lambda rows: rows[2].update(changes))
    with pytest.raises(CorruptArtefactError, match=r"impossible entry in row 2") as caught:
        read_profile(path)
    assert named in str(caught.value)


def test_a_width_on_a_part_that_has_none_is_refused(path: Path, metadata: ProfileMetadata) -> None:
    """A stem is not elastic."""
    rewrite(path, metadata, lambda rows: rows[0].update({"mid_channels": 32}))
    with pytest.raises(CorruptArtefactError, match=r"row 0.*first_stem has no width"):
        read_profile(path)


def test_a_repeated_entry_is_refused(path: Path, metadata: ProfileMetadata) -> None:
    """Two rows for one key and width are named, whatever their roles: the table would silently take the last."""
    rewrite(path, metadata, lambda rows: rows.append({**rows[4], "role": "held_out"}))
    block = block_key(PLACES[2], "k3_e3_se", 64, 64)
    with pytest.raises(CorruptArtefactError, match="two entries for") as caught:
        read_profile(path)
    assert f"{block}, width 72" in str(caught.value)


@pytest.mark.parametrize("number", [0, -1], ids=["plan", "held out"])
def test_a_missing_entry_is_noticed(path: Path, metadata: ProfileMetadata, number: int) -> None:
    """The count of entries and of those held out must be what the metadata say."""
    rewrite(path, metadata, lambda rows: rows.pop(number))
    with pytest.raises(CorruptArtefactError, match=rf"but says {len(PARTS)} and 1"):
        read_profile(path)


def test_a_profile_behind_a_closed_gate_needs_the_flag(
    path: Path, entries: tuple[Entry, ...], metadata: ProfileMetadata
) -> None:
    """Metadata with a failed check and no leave to write it are refused; with the flag they are read, and tell it."""
    check = GateCheck(name="drift", value=9.0, limit=5.0, unit="%", passed=False)
    closed = metadata.model_copy(update={"gate": Gate(checks=(check,), allow_noisy=False)})
    write_profile(path, entries, closed)
    with pytest.raises(CorruptArtefactError, match="noise gate"):
        read_profile(path)
    allowed = metadata.model_copy(update={"gate": Gate(checks=(check,), allow_noisy=True)})
    write_profile(path, entries, allowed)
    assert read_profile(path)[1].gate.passed is False


CHANGES: dict[str, Any] = {
    "runtime": "torch_compile",
    "provider": "CPUExecutionProvider",
    "batch": 1,
    "precision": "bf16",
    "memory_format": "contiguous",
    "height": 224,
    "width": 96,
    "classes": 100,
    "threads": 4,
    "cache": "cold",
    "tf32": True,
}


class Old(RootModel[dict[str, Any]]):
    """What another version wrote."""


@pytest.mark.parametrize(("version", "age"), [(1, "an earlier"), (3, "an earlier"), (5, "a later")])
def test_a_profile_of_another_version_is_refused(path: Path, metadata: ProfileMetadata, version: int, age: str) -> None:
    """The message says which version it is, and nothing of the many fields that it lacks."""
    old = {**json.loads(metadata.model_dump_json()), "version": version}
    del old["setting"]
    batch = pa.RecordBatch.from_pylist([entry.as_row() for entry in read_profile(path)[0]], schema=ENTRIES)
    write_parquet(path, with_metadata(ENTRIES, Old(old)), [batch])
    with pytest.raises(CorruptArtefactError, match=f"version {version}, written by {age} dcnas") as caught:
        read_profile(path)
    assert "profile the device again" in str(caught.value)
    assert "setting" not in str(caught.value)


@pytest.mark.parametrize("field", CHANGES)
def test_a_profile_of_another_setting_is_refused(path: Path, metadata: ProfileMetadata, field: str) -> None:
    """Each field of the setting alone is enough."""
    wanted = metadata.setting.model_copy(update={field: CHANGES[field]})
    with pytest.raises(BadInputError, match=f"{field} .*, not {CHANGES[field]!r}"):
        require_setting(path, metadata, wanted)


def test_every_difference_is_named_at_once(path: Path, metadata: ProfileMetadata) -> None:
    """All fields are compared, none is forgotten, and the same setting passes."""
    assert set(CHANGES) == set(LatencySetting.model_fields)
    with pytest.raises(BadInputError) as caught:
        require_setting(path, metadata, metadata.setting.model_copy(update=CHANGES))
    for field, value in CHANGES.items():
        assert f"{field} {getattr(metadata.setting, field)!r}, not {value!r}" in str(caught.value)
    require_setting(path, metadata, metadata.setting)

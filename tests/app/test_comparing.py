"""Two profiles side by side: what differs comes first, matched parts have right ratios, and nothing is compared that only one knows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dcnas_app import comparing
from dcnas_app.comparing import Profile, compare_profiles, differences, matched_nets, matched_parts, ratio_lines
from dcnas_harness.errors import BadInputError, CorruptArtefactError
from dcnas_latency.files import write_profile
from dcnas_schema.latency import Entry, ProfileMetadata
from dcnas_tabulate.drawing import new_figure


@pytest.fixture(scope="module")
def profile(simulated_profile: Path) -> Profile:
    """A profile of the simulated device."""
    return Profile.read(simulated_profile)


def times(entry: Entry, factor: float) -> Entry:
    """Return the entry `factor` times as slow."""
    return entry.model_copy(update={"median_ms": factor * entry.median_ms})


def other(profile: Profile, entries: Sequence[Entry] | None = None, **changes: Any) -> Profile:
    """Return a second profile with these entries and changed metadata."""
    kept = profile.entries if entries is None else tuple(entries)
    roles = [entry.role for entry in kept]
    plan = profile.metadata.plan.model_copy(
        update={"entries": roles.count("plan"), "held_out": roles.count("held_out")}
    )
    metadata = profile.metadata.model_copy(update={"plan": plan, **changes})
    return Profile(path=Path("b.parquet"), entries=kept, metadata=metadata)


def changed(metadata: ProfileMetadata, section: str, **fields: Any) -> dict[str, Any]:
    """Return a change of some fields of one section."""
    return {section: getattr(metadata, section).model_copy(update=fields)}


def rows(lines: Sequence[str]) -> dict[str, list[str]]:
    """Return the printed numbers of each row of the table of ratios."""
    return {
        line.split("  ")[0]: line.replace("%", "").split()[-7:]
        for line in lines
        if " %" in line and "matched" not in line
    }


def test_a_profile_equals_itself(profile: Profile, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Twice the same: nothing differs, every entry and every net is matched, every ratio is one, and the picture is there twice."""
    compare_profiles(profile.path, profile.path, tmp_path / "compare.png")
    printed = capsys.readouterr().out.splitlines()
    assert printed[printed.index("what differs (A | B):") + 1].strip() == "nothing"
    table = rows([line.strip() for line in printed])
    assert table["all parts"] == [str(len(profile.entries)), "0", "1.000", "1.000", "1.000", "100", "100"]
    assert table["all nets"][0] == str(len(profile.metadata.nets))
    assert set(table) == {
        *("first_stem", "second_stem", "block", "feature_mix", "head", "decoder", "all parts"),
        *("c_nas", "d_nas", "dc_nas", "all nets"),
    }
    assert printed[-3:] == [
        "  order of the whole nets: Spearman 1.000",
        f"picture: {tmp_path / 'compare.png'}",
        f"picture: {tmp_path / 'compare.svg'}",
    ]
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (tmp_path / "compare.svg").read_bytes()


def test_ratios_are_those_of_b_over_a(profile: Profile) -> None:
    """Blocks twice and decoder levels half as slow in B: ratios 2.000 and 0.500; 5 % around one and around the median are told apart."""
    factors = {"block": 2.0, "decoder": 0.5}
    b = other(profile, [times(entry, factors.get(entry.key.part, 1.0)) for entry in profile.entries])
    table = rows(ratio_lines(matched_parts(profile, b), matched_nets(profile.metadata, b.metadata)))
    assert table["block"][2:] == ["2.000", "2.000", "2.000", "0", "100"]
    assert table["decoder"][2:] == ["0.500", "0.500", "0.500", "0", "100"]
    assert table["head"][2:] == ["1.000", "1.000", "1.000", "100", "100"]
    assert table["all nets"][2:] == ["1.000", "1.000", "1.000", "100", "100"]


def test_percentiles_and_shares_are_of_the_single_entries(profile: Profile) -> None:
    """A tenth of the blocks 30 % slower in B, a tenth 20 % faster, one out of line: percentiles and shares tell just that."""
    blocks = [entry for entry in profile.entries if entry.key.part == "block"]
    slower = [times(entry, 0.5 if i == 1 else {0: 1.3, 5: 0.8}.get(i % 10, 1.0)) for i, entry in enumerate(blocks)]
    a, b = other(profile, blocks), other(profile, slower)
    row = rows(ratio_lines(matched_parts(a, b), []))["block"]
    assert row[2:5] == ["1.000", "0.800", "1.300"]
    assert row[5:] == ["80", "80"]


def test_a_width_that_one_lacks_is_interpolated_there(profile: Profile) -> None:
    """With the middle of a curve gone from B, its latency is on the line of its neighbours in the same alignment class; it is counted."""
    modulus = profile.metadata.plan.modulus
    key = next(entry.key for entry in profile.entries if entry.key.part == "block")
    curve = sorted(
        (e for e in profile.entries if e.key == key and e.role == "plan" and (e.mid_channels or 0) % modulus == 0),
        key=lambda entry: entry.mid_channels or 0,
    )
    left, gone, right = curve[:3]
    b = other(profile, [entry for entry in profile.entries if entry is not gone])
    pairs = matched_parts(profile, b)
    assert len(pairs) == len(profile.entries)
    (pair,) = [pair for pair in pairs if pair.interpolated]
    widths = [entry.mid_channels or 0 for entry in (left, gone, right)]
    share = (widths[1] - widths[0]) / (widths[2] - widths[0])
    assert pair.first_ms == gone.median_ms
    assert pair.second_ms == pytest.approx(left.median_ms + share * (right.median_ms - left.median_ms))
    assert rows(ratio_lines(pairs, []))["block"][1] == "1"


def test_nothing_is_extrapolated_or_invented(profile: Profile) -> None:
    """A width outside the other's range and a part that the other lacks are left out, whichever of the two has them."""
    key = next(entry.key for entry in profile.entries if entry.key.part == "block")
    widest = max((e for e in profile.entries if e.key == key), key=lambda entry: entry.mid_channels or 0)
    few = other(profile, [e for e in profile.entries if e is not widest and e.key.part != "decoder"])
    for pairs in (matched_parts(profile, few), matched_parts(few, profile)):
        assert len(pairs) == len(few.entries)
        assert not any(pair.interpolated for pair in pairs)
        assert "decoder" not in {pair.group for pair in pairs}


def test_differences_name_field_and_both_values(profile: Profile) -> None:
    """Device, setting, protocol, plan and gate: each field that differs is a line, a missing value says so, outcomes are no difference."""
    a = profile.metadata
    b = a.model_copy(
        update={
            **changed(a, "device", name="other box", allocator={"MALLOC_ARENA_MAX": "1"}, absent={"isa": "hidden"}),
            **changed(a, "setting", batch=32),
            **changed(a, "protocol", rounds=99, seconds=123.0, rejected={"canary": 7}),
            **changed(a, "plan", modulus=8),
            **changed(a, "gate", checks=(a.gate.checks[0].model_copy(update={"passed": False}),)),
        }
    )
    assert differences(a, b) == [
        "device name: simulated device | other box",
        "device allocator.MALLOC_ARENA_MAX: not given | 1",
        "setting batch: 1 | 32",
        "protocol rounds: 6 | 99",
        "plan modulus: 16 | 8",
        "noise gate: passed | NOT PASSED",
    ]
    assert differences(a, a) == []


def test_other_nets_are_not_compared(profile: Profile) -> None:
    """Nets are matched by kind and genotype; where none is in both, the table says so."""
    nets = profile.metadata.nets
    fewer = other(profile, nets=nets[3:])
    assert len(matched_nets(profile.metadata, fewer.metadata)) == len(nets) - 3
    twisted = other(profile, nets=(nets[0].model_copy(update={"kind": "d_nas"}),))
    assert nets[0].kind != "d_nas"
    swapped = matched_nets(twisted.metadata, other(profile, nets=nets[:1]).metadata)
    assert swapped == []
    assert "none was measured in both" in ratio_lines(matched_parts(profile, fewer), swapped)[-1]


def test_profiles_without_a_common_part_are_refused_after_the_differences(
    profile: Profile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another image size: the line that says so is printed, then the error; no picture is made."""
    moved = [
        e.model_copy(update={"key": e.key.model_copy(update={"height": 2 * e.key.height})}) for e in profile.entries
    ]
    b = other(profile, moved, **changed(profile.metadata, "setting", height=128))
    write_profile(tmp_path / "b.parquet", b.entries, b.metadata)
    with pytest.raises(BadInputError, match="no part in common"):
        compare_profiles(profile.path, tmp_path / "b.parquet", tmp_path / "picture")
    assert "setting height: 64 | 128" in capsys.readouterr().out
    assert list(tmp_path.glob("picture*")) == []


def test_a_noisy_profile_is_named_as_such(
    profile: Profile, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a profile that failed its gate the first lines say NOISY; of the other they do not; the picture's name is not its own."""
    monkeypatch.setattr(comparing, "picture", lambda *_: new_figure((1, 1), "light"))
    checks = (profile.metadata.gate.checks[0].model_copy(update={"passed": False}),)
    b = other(profile, **changed(profile.metadata, "gate", checks=checks, allow_noisy=True))
    write_profile(tmp_path / "b.parquet", b.entries, b.metadata)
    compare_profiles(profile.path, tmp_path / "b.parquet", tmp_path / "b.parquet")
    first, second = capsys.readouterr().out.splitlines()[:2]
    assert "NOISY" not in first
    assert "NOISY" in second
    assert Profile.read(tmp_path / "b.parquet").entries == profile.entries
    assert (tmp_path / "b.png").is_file()


def test_a_missing_profile_is_named(profile: Profile, tmp_path: Path) -> None:
    """A path that leads nowhere is an error of class 4."""
    with pytest.raises(CorruptArtefactError, match=r"nowhere\.parquet does not exist"):
        compare_profiles(profile.path, tmp_path / "nowhere.parquet", tmp_path / "picture")

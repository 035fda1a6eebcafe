"""What tabulate shows of a latency profile: figures and tables hold the profile's numbers, and noise cannot be overlooked."""

import csv
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from dcnas_harness.errors import CorruptArtefactError
from dcnas_harness.files import sha256_of
from dcnas_latency.simulated import Law, part_ms
from dcnas_schema.genotype import block_key
from dcnas_schema.keys import Part
from dcnas_schema.params import Params
from dcnas_schema.provenance import DeviceState
from dcnas_schema.records import EvaluationMetadata
from dcnas_schema.space import OPS, PLACES
from dcnas_tabulate.__main__ import main
from dcnas_tabulate.drawing import save_figure
from dcnas_tabulate.job import tabulate
from dcnas_tabulate.latency_figures import (
    FIGURES,
    calibration_plot,
    heat_map,
    over_the_run,
    starting_latencies,
    width_curves,
)
from dcnas_tabulate.latency_page import LatencyResult, latency_csv, latency_markdown, latency_section

MODEL = "unet_s"


@pytest.fixture(scope="module")
def profile(simulated_profile: Path) -> LatencyResult:
    """A profile of the simulated device."""
    return LatencyResult.read(simulated_profile)


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory,
    project: Path,
    write_record: Callable[..., EvaluationMetadata],
    tiny_params: Callable[..., Params],
) -> Callable[[Path | None], Path]:
    """A function that runs the stage on one model's record and a profile, and returns the folder of its results."""
    root = tmp_path_factory.mktemp("run")
    write_record(root / "records" / MODEL / "0", MODEL, 0, levels=[{"psnr_db": 38.0, "ssim": 0.8}] * 2)
    params = tiny_params({"runs.seeds": [0], "runs.models": [MODEL]})

    def stage(source: Path | None) -> Path:
        out = root / ("without" if source is None else "with")
        tabulate(params, root / "records", project / "data/reference/paper_tables.csv", out, source)
        return out

    return stage


@pytest.fixture(scope="module")
def results(run: Callable[[Path | None], Path], profile: LatencyResult) -> Path:
    """The results with the profile; tests leave them as they are."""
    return run(profile.source)


def changed(profile: LatencyResult, **changes: Any) -> LatencyResult:
    """Return the profile with other metadata."""
    return LatencyResult(
        source=profile.source,
        sha256=profile.sha256,
        entries=profile.entries,
        metadata=profile.metadata.model_copy(update=changes),
    )


def noisy(profile: LatencyResult) -> LatencyResult:
    """Return the profile as if its first check had failed."""
    first, *others = profile.metadata.gate.checks
    failed = first.model_copy(update={"value": 9.0, "passed": False, "remedy": "close <other> programs"})
    return changed(profile, gate=profile.metadata.gate.model_copy(update={"checks": (failed, *others)}))


def markdown_rows(text: str, first_column: str) -> list[dict[str, str]]:
    """Return the rows of the Markdown table whose first column has this title."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first_column}"))
    table = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines[start:]]
    end = next((i for i, line in enumerate(lines[start:]) if not line.startswith("|")), len(table))
    return [dict(zip(table[0], row, strict=False)) for row in table[2:end]]


def marks(figure: Figure, panel: int, marker: Sequence[str]) -> list[tuple[float, float]]:
    """Return where a panel's marks of these kinds stand."""
    lines = [line for line in figure.axes[panel].lines if line.get_marker() in marker]
    return [(float(x), float(y)) for line in lines for x, y in zip(*line.get_data(), strict=True)]


def test_the_profile_adds_its_files_and_its_section(results: Path, run: Callable[[Path | None], Path]) -> None:
    """With a profile there are summary, CSV, eight figures and the section; without one there is none of it."""
    without = run(None)
    added = {path.relative_to(results).as_posix() for path in results.rglob("*") if path.is_file()}
    added -= {path.relative_to(without).as_posix() for path in without.rglob("*") if path.is_file()}
    figures = {f"figures/{name}_{theme}.svg" for name in FIGURES for theme in ("light", "dark")}
    figures |= {f"figures/{name}.figure.json" for name in FIGURES}
    assert added == {"latency.md", "latency.csv", *figures}
    page, plain = ((folder / "index.html").read_text() for folder in (results, without))
    assert page.count("<svg class=figure") - plain.count("<svg class=figure") == len(FIGURES)
    assert len(page) < 1_000_000
    assert "https://" not in page
    assert "id=latency" in page
    assert "id=latency" not in plain


@pytest.mark.parametrize("name", FIGURES)
def test_the_same_profile_gives_the_same_figure(
    name: str, results: Path, profile: LatencyResult, tmp_path: Path
) -> None:
    """Drawn again, every figure repeats to the last byte; the dark one is what drawing in the dark theme gives."""
    draw, _ = FIGURES[name]
    for theme in ("light", "dark"):
        save_figure(draw(profile.entries, profile.metadata, theme), tmp_path / f"{theme}.svg")
    assert (tmp_path / "light.svg").read_bytes() == (results / f"figures/{name}_light.svg").read_bytes()
    dark = (tmp_path / "dark.svg").read_text(encoding="utf-8")
    assert numbered(dark) == numbered((results / f"figures/{name}_dark.svg").read_text(encoding="utf-8"))


def numbered(svg: str) -> str:
    """Return a drawing whose marks and clips are named by their order: Matplotlib names them by what they look like, colours included."""
    names: dict[str, str] = {}
    return re.sub(r"\b[mpC][0-9a-f_]{10,}\b", lambda found: names.setdefault(found.group(), f"name{len(names)}"), svg)


def test_the_heat_map_holds_each_ops_latency_at_its_starting_width(profile: LatencyResult) -> None:
    """A row a place, a column an op: what the simulated device costs at 3 or 6 times the input channels, and so it is printed."""
    names, ms = starting_latencies(profile.entries, profile.metadata)
    setting, law = profile.metadata.setting, Law()
    truth = [
        [
            part_ms(
                Part(block_key(place, name, setting.height, setting.width), place.in_channels * op.expand_ratio), law
            )
            for name, op in OPS.items()
        ]
        for place in PLACES
    ]
    assert names == list(OPS)
    assert ms == pytest.approx(np.array(truth) * (1 - law.overlap), rel=0.015)
    axes = heat_map(profile.entries, profile.metadata, "light").axes[0]
    printed = [text.get_text() for text in axes.texts]
    places = [label.get_text().split()[0] for label in axes.get_yticklabels()]
    assert places == [f"{place.stage}.{place.block + 1}" for place in PLACES]  # counted from one, as in Figure 4
    assert [float(text) for text in printed] == pytest.approx(ms.ravel(), rel=0.01)


def test_ops_that_were_not_profiled_have_no_column(profile: LatencyResult) -> None:
    """A table of the four ops without SE makes a map of four columns; one without blocks is refused."""
    plain = [entry for entry in profile.entries if not entry.key.se_channels]
    names, ms = starting_latencies(plain, profile.metadata)
    assert names == ["k3_e3", "k3_e6", "k5_e3", "k5_e6"]
    assert ms.shape == (len(PLACES), 4)
    with pytest.raises(CorruptArtefactError, match="no candidate op"):
        starting_latencies([entry for entry in plain if entry.key.part != "block"], profile.metadata)


def test_the_calibration_plot_holds_every_net(profile: LatencyResult) -> None:
    """Left each net stands at predicted and measured latency, right at its error in per cent; the legend tells the accuracy."""
    nets = profile.metadata.nets
    figure = calibration_plot(profile.entries, profile.metadata, "light")
    expected = [(net.predicted_ms, net.measured_ms) for net in nets]
    errors = [(net.predicted_ms, 100 * (net.predicted_ms / net.measured_ms - 1)) for net in nets]
    for panel, points in enumerate((expected, errors)):
        assert np.array(sorted(marks(figure, panel, "os^"))) == pytest.approx(np.array(sorted(points)))
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    for one, line in zip(profile.metadata.accuracy, legend, strict=False):
        assert line.startswith(f"{one.kind}, {one.nets} held out: MAPE {one.mape_pct:.1f} %")
        assert line.endswith(f"Spearman {one.spearman:.3f}")


def test_the_width_curves_hold_every_measured_width(profile: LatencyResult) -> None:
    """Eleven kinds of place: dots are the table's points, crosses the widths held out of it; no width is left out or drawn twice."""

    def points(role: str) -> list[tuple[float, float]]:
        blocks = [e for e in profile.entries if e.key.part == "block" and e.role == role]
        return sorted((float(e.mid_channels or 0), e.median_ms) for e in blocks)

    figure = width_curves(profile.entries, profile.metadata, "light")
    drawn = [axes for axes in figure.axes if axes.lines]
    assert len(drawn) == 11
    assert len({axes.get_title() for axes in drawn}) == 11
    assert sorted(xy for panel in range(11) for xy in marks(figure, panel, "os")) == points("plan")
    assert sorted(xy for panel in range(11) for xy in marks(figure, panel, "x")) == points("held_out")


def test_alignment_classes_have_lines_of_their_own(profile: LatencyResult) -> None:
    """No line of the table joins a multiple of the modulus with another width, for the table does not either."""
    modulus = profile.metadata.plan.modulus
    assert modulus == 16
    figure = width_curves(profile.entries, profile.metadata, "light")
    lines = [line for axes in figure.axes for line in axes.lines if line.get_marker() in "os" and len(line.get_xdata())]
    classes = [{int(x) % modulus == 0 for x in line.get_xdata()} for line in lines]
    assert all(len(found) == 1 for found in classes)
    assert {True} in classes
    assert {False} in classes


def test_over_the_run_shows_what_the_device_tells(profile: LatencyResult) -> None:
    """A panel for every quantity that was ever given, an upright line in each where the card slowed itself, idling not counted."""
    states = tuple(
        (10.0 * i, DeviceState(sm_clock_mhz=1980 - i, temperature_c=40 + i, throttle_reasons=0x4 if i == 3 else 0x1))
        for i in range(5)
    )
    figure = over_the_run((), profile.metadata.model_copy(update={"states": states}), "light")
    assert [axes.get_ylabel().split("\n")[0] for axes in figure.axes] == ["SM clock", "temperature"]
    assert marks(figure, 1, "o") == [(10.0 * i, 40.0 + i) for i in range(5)]
    for axes in figure.axes:
        upright = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "None"]
        assert upright == [30.0]


def test_over_the_run_shows_the_canary_with_its_limit(profile: LatencyResult) -> None:
    """Its course stands first, with the reference as a line and the limit of its band above; slow and quiet phases are seen there."""
    canary = ((1.0, 0.5), (20.0, 0.9), (40.0, 0.52))
    metadata = profile.metadata.model_copy(update={"states": ((0.0, DeviceState(load_average=0.5)),), "canary": canary})
    first, second = over_the_run((), metadata, "light").axes
    assert (first.get_ylabel(), second.get_ylabel()) == ("canary\n(ms)", "load\naverage")
    course, reference, limit = first.lines
    assert list(zip(*course.get_data(), strict=True)) == list(canary)
    protocol = metadata.protocol
    assert reference.get_ydata()[0] == protocol.canary_reference_ms
    assert limit.get_ydata()[0] == pytest.approx(protocol.canary_reference_ms * (1 + protocol.canary_band_pct / 100))


def test_a_device_that_tells_nothing_gets_a_word_instead(profile: LatencyResult) -> None:
    """Without any state the figure says so."""
    figure = over_the_run((), profile.metadata.model_copy(update={"states": ((0.0, DeviceState()),)}), "light")
    assert "tells nothing" in figure.axes[0].texts[0].get_text()


def test_the_printed_accuracy_is_the_profiles(profile: LatencyResult, results: Path) -> None:
    """Every kind of net has its MAPE, shares within 5 % and 10 %, Spearman and calibration in summary and page."""
    first, *others = profile.metadata.accuracy
    told = first.model_copy(
        update={
            **{
                "nets": 20,
                "full_depth": 12,
                "mape_pct": 3.14,
                "table_mape_pct": 8.5,
                "bias_pct": -1.25,
                "worst_pct": 12.5,
            },
            **{"within_5_pct": 85.0, "within_10_pct": 95.0, "inside_interval_pct": 90.0},
            **{"spearman": 0.98, "kendall": 0.91},
        }
    )
    result = changed(profile, accuracy=(told, *others))
    rows = markdown_rows(latency_markdown(result), "Kind of net")
    fit = profile.metadata.calibration
    assert [row["Kind of net"] for row in rows] == [told.kind, *(one.kind for one in others)]
    assert list(rows[0].values()) == [
        *(told.kind, "20", "12", "3.14", "85", "95", "0.980", "0.910", "-1.25", "12.50", "90", "8.50"),
        *(f"{fit.interval_pct[told.kind]:.1f}", f"{fit.scale[told.kind]:.3f}", f"{fit.overhead_ms[told.kind]:.3f}"),
    ]
    page = latency_section(result, results / "figures")
    cells = "".join(f"<td class='{'' if i else 'text'}'>{text}</td>" for i, text in enumerate(rows[0].values()))
    assert f"<tr>{cells}</tr>" in page
    assert all(f">{title}</th>" in page for title in rows[0])


def test_the_error_stands_apart_by_depth(profile: LatencyResult, results: Path) -> None:
    """Summary, page and CSV tell it for nets of full and of reduced depth; a profile before version 3 has no such table."""
    assert {one.depth for one in profile.metadata.depths} == {"full", "reduced"}
    rows = markdown_rows(latency_markdown(profile), "Kind and depth")
    for row, one in zip(rows, profile.metadata.depths, strict=True):
        assert row["Kind and depth"] == f"{one.kind}, {one.depth}"
        assert (row["Held-out nets"], row["MAPE (%)"]) == (str(one.nets), f"{one.mape_pct:.2f}")
    assert ">Kind and depth</th>" in latency_section(profile, results / "figures")
    told = [
        row
        for row in csv.DictReader(io.StringIO(latency_csv(profile.metadata)))
        if row["section"] == "accuracy by depth"
    ]
    assert [(row["item"], float(row["value"])) for row in told if row["quantity"] == "bias_pct"] == [
        (f"{one.kind} {one.depth}", one.bias_pct) for one in profile.metadata.depths
    ]
    old = changed(profile, depths=())
    assert "Kind and depth" not in latency_markdown(old) + latency_section(old, results / "figures")


def test_a_staircase_is_drawn_as_the_table_has_it(profile: LatencyResult) -> None:
    """Its line has the same latency over all widths of a step, and no point is hollow; the page says what it is."""
    plan = profile.metadata.plan.model_copy(update={"modulus": 64, "stairs": True})
    result = changed(profile, plan=plan)
    figure = width_curves(profile.entries, result.metadata, "light")
    drawn = [
        line for axes in figure.axes for line in axes.lines if line.get_marker() == "None" and len(line.get_xdata()) > 8
    ]
    assert drawn
    for line in drawn:
        steps: dict[int, set[float]] = {}
        for x, y in zip(*line.get_data(), strict=True):
            steps.setdefault(-(-int(x) // 64), set()).add(float(y))
        assert all(len(found) == 1 for found in steps.values())
    assert "every begun 64 channels" in latency_markdown(result)


def test_the_csv_holds_accuracy_plan_and_gate_at_full_precision(profile: LatencyResult) -> None:
    """A row a quantity, exact; a check that the machine does not answer has an empty value and the reason."""
    rows = list(csv.DictReader(io.StringIO(latency_csv(profile.metadata))))
    found = {(row["section"], row["item"], row["quantity"]): row for row in rows}
    assert len(found) == len(rows)
    for one in profile.metadata.accuracy:
        assert float(found["accuracy", one.kind, "mape_pct"]["value"]) == one.mape_pct
        assert found["accuracy", one.kind, "mape_pct"]["unit"] == "%"
    assert int(found["plan", "all", "entries"]["value"]) == profile.metadata.plan.entries
    for check in profile.metadata.gate.checks:
        row = found["gate", check.name, "value"]
        assert (row["passed"], row["note"], float(row["limit"])) == (str(check.passed), check.reason, check.limit)
        assert row["value"] == ("" if check.value is None else str(check.value))


def test_noise_cannot_be_overlooked(profile: LatencyResult, results: Path) -> None:
    """A profile that failed its gate carries a banner in both forms, the failed check and its remedy; one that passed has none."""
    bad = noisy(profile)
    name = bad.metadata.gate.checks[0].name
    for text in (latency_markdown(bad), latency_section(bad, results / "figures")):
        assert "NOISY: the noise gate did not pass" in text
        assert text.index("NOISY") < text.index("MAPE")
        assert name in text[text.index("NOISY") : text.index("MAPE")]
        assert "Noise gate: NOT PASSED" in text
    row = markdown_rows(latency_markdown(bad), "Check")[0]
    assert (row["Check"], row["Found"], row["Passed"]) == (name, "9 %", "NO")
    assert "close &lt;other&gt; programs" in latency_section(bad, results / "figures")
    for text in (latency_markdown(profile), (results / "index.html").read_text()):
        assert "NOISY" not in text
        assert "Noise gate: passed" in text


def test_card_setting_protocol_and_source_stand_there(profile: LatencyResult, results: Path) -> None:
    """Summary and page name device, runtime, input, rounds, commit and the profile's hash, and say that the device is a formula."""
    assert profile.sha256 == sha256_of(profile.source)
    for text in ((results / "latency.md").read_text(), (results / "index.html").read_text()):
        for words in (
            "simulated device",
            "simulated, fp32, channels_last",
            "batch of 1, 64x64 pixels",
            "6 rounds over 2 processes",
            "multiples of 16 run",
            profile.sha256,
            "say nothing of any machine",
        ):
            assert words in text, words
    real = changed(profile, setting=profile.metadata.setting.model_copy(update={"runtime": "torch_eager"}))
    assert "say nothing of any machine" not in latency_markdown(real)


@pytest.mark.parametrize("words", [[], ["--profile", "some/profile.parquet"]])
def test_the_command_takes_the_profile(
    words: list[str], tmp_path: Path, write_params: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--profile` reaches the stage; without it there is none."""
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr("dcnas_tabulate.job.tabulate", lambda *arguments: calls.append(arguments))
    params = write_params(tmp_path / "params.yaml")
    given = {
        "--params": params,
        "--records": "r",
        "--reference": "f",
        "--out": tmp_path / "o",
        "--scratch": tmp_path / "s",
    }
    monkeypatch.setattr("sys.argv", ["tabulate", *(str(word) for pair in given.items() for word in pair), *words])
    main()
    assert calls[0][1:] == (Path("r"), Path("f"), tmp_path / "o", Path(words[1]) if words else None)


def test_a_profile_that_is_not_there_ends_the_stage(run: Callable[[Path | None], Path], tmp_path: Path) -> None:
    """A path that leads nowhere is an error of class 4 that names it, not a page without the section."""
    with pytest.raises(CorruptArtefactError, match=r"nowhere\.parquet does not exist"):
        run(tmp_path / "nowhere.parquet")

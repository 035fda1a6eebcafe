"""The predictor: its calibration is robust, its interval holds what it promises, and its errors are counted as defined."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats

from dcnas_latency.packing import whole_net
from dcnas_latency.predictor import Predictor, accuracy_of, calibrate, student_quantile
from dcnas_latency.simulated import Law, part_ms
from dcnas_latency.table import LatencyKeyMissingError, LookupTable
from dcnas_schema.genotype import Genotype, parts_of, uniform_genotype
from dcnas_schema.latency import Calibration, NetTiming
from dcnas_schema.sampling import random_nets
from dcnas_schema.space import NET_KINDS, OP_SETS, NetKind

GENOTYPE = uniform_genotype("k3_e3", 3)
SCALE: dict[NetKind, float] = {"c_nas": 0.95, "d_nas": 1.1, "dc_nas": 1.0}
OVERHEAD_MS: dict[NetKind, float] = {"c_nas": 0.5, "d_nas": -0.2, "dc_nas": 2.0}
Sums = dict[NetKind, np.ndarray]


def drawn(generator: np.random.Generator, nets: int, spread: float) -> tuple[Sums, Sums]:
    """Return sums over the table in ms and what was measured, which is off the true line by a relative error."""
    sums: Sums = {kind: generator.uniform(10, 40, nets) for kind in NET_KINDS}
    measured = {
        kind: (SCALE[kind] * x + OVERHEAD_MS[kind]) * (1 + spread * generator.standard_normal(nets))
        for kind, x in sums.items()
    }
    return sums, measured


def fitted(sums: Sums, measured: Sums, confidence: float = 0.95) -> Calibration:
    """Return the calibration."""
    return calibrate(
        {kind: x.tolist() for kind, x in sums.items()},
        {kind: y.tolist() for kind, y in measured.items()},
        confidence=confidence,
        full_depth=0,
    )


def timing(measured_ms: float, predicted_ms: float, *, half: float = 0.5, table_ms: float = 1.0) -> NetTiming:
    """Return a net's timing with an interval of `half` ms to both sides of the prediction."""
    return NetTiming(
        kind="c_nas",
        genotype=GENOTYPE,
        use="held_out",
        measured_ms=measured_ms,
        low_ms=measured_ms,
        high_ms=measured_ms,
        kept=6,
        table_ms=table_ms,
        predicted_ms=predicted_ms,
        predicted_low_ms=predicted_ms - half,
        predicted_high_ms=predicted_ms + half,
    )


def random() -> np.random.Generator:
    """Return a generator."""
    return np.random.Generator(np.random.PCG64(7))


def test_the_calibration_finds_scale_and_overhead_of_each_kind() -> None:
    """Without errors both come out exactly, and the interval has no width."""
    fit = fitted(*drawn(random(), 4, 0.0))
    assert fit.scale == pytest.approx(SCALE)
    assert fit.overhead_ms == pytest.approx(OVERHEAD_MS)
    assert fit.interval_pct == pytest.approx(dict.fromkeys(NET_KINDS, 0.0), abs=1e-6)
    assert fit.fitted_on == 12


@pytest.mark.parametrize("factor", [0.1, 0.5, 1.5, 3.0, 10.0])
def test_one_wild_net_does_not_move_the_fit(factor: float) -> None:
    """A net measured ten times too fast or too slow moves no prediction by more than one net's noise, but widens its kind's interval."""
    sums, measured = drawn(random(), 20, 0.002)
    calm = fitted(sums, measured)
    measured["d_nas"][3] *= factor
    wild = fitted(sums, measured)
    for x in (10.0, 25.0, 40.0):
        before, after = (fit.scale["d_nas"] * x + fit.overhead_ms["d_nas"] for fit in (calm, wild))
        assert after == pytest.approx(before, rel=0.002)
    assert (wild.scale["c_nas"], wild.overhead_ms["c_nas"]) == (calm.scale["c_nas"], calm.overhead_ms["c_nas"])
    assert wild.interval_pct["d_nas"] > 10 * calm.interval_pct["d_nas"]
    assert wild.interval_pct["c_nas"] == calm.interval_pct["c_nas"]


@pytest.mark.parametrize("factor", [0.1, 10.0])
@pytest.mark.parametrize("wild", range(6))
def test_of_six_nets_one_may_be_wild(factor: float, wild: int) -> None:
    """A small profile fits on six nets: whichever of them is off by ten times, the line stays that of the other five."""
    x = np.array([10.0, 14.0, 19.0, 25.0, 32.0, 40.0])
    y = (0.9 * x + 1.0) * np.array([1.01, 0.99, 1.0, 1.01, 0.99, 1.0])
    y[wild] *= factor
    fit = fitted(dict.fromkeys(NET_KINDS, x), dict.fromkeys(NET_KINDS, y))
    for at in (10.0, 25.0, 40.0):
        assert fit.scale["c_nas"] * at + fit.overhead_ms["c_nas"] == pytest.approx(0.9 * at + 1.0, rel=0.05)


def test_nets_of_both_depths_tie_the_line_down() -> None:
    """
    Twelve nets measured to 3 %: fitted on full depth alone the line is off by more than 4 % (root mean square) on nets of less depth.

    Fitted by turns on both it is off by less than half of that, and on nets of full depth it is no worse.
    """
    generator, law = random(), Law(launch_ms=0.12, macs_per_ms=4e6)

    def total(genotype: Genotype) -> float:
        subject = whole_net(genotype, "c_nas", height=64, width=64, classes=100)
        return sum(part_ms(part, law) for part in subject.parts)

    drawn = np.array([total(net) for net in random_nets(generator, 200, ops=OP_SETS[4])])
    full, cut = drawn[::2], drawn[1::2]

    def error_pct(fit_on: Sequence[np.ndarray]) -> tuple[float, float]:
        """Return the line's error on nets of full depth and of less, over many fits on a dozen nets."""
        errors = []
        for _ in range(30):
            x = np.concatenate([generator.choice(sums, 12 // len(fit_on)) for sums in fit_on])
            y = x * (1 + 0.03 * generator.standard_normal(12))
            fit = fitted({"c_nas": x}, {"c_nas": y})
            errors.append([fit.scale["c_nas"] + fit.overhead_ms["c_nas"] / sums - 1 for sums in (full, cut)])
        on_full, on_cut = 100 * np.sqrt(np.square(errors).mean(axis=(0, 2)))
        return float(on_full), float(on_cut)

    (alone_full, alone_cut), (both_full, both_cut) = error_pct([full]), error_pct([full, cut])
    assert alone_cut > 4.0
    assert both_cut < alone_cut / 2
    assert both_full < 1.05 * alone_full


def test_nets_that_are_all_alike_give_their_ratio() -> None:
    """One sum over the table for all nets has no slope: what is left is how much slower they are than it."""
    fit = fitted(dict.fromkeys(NET_KINDS, np.full(4, 10.0)), dict.fromkeys(NET_KINDS, np.full(4, 12.0)))
    assert fit.scale["c_nas"] * 10.0 + fit.overhead_ms["c_nas"] == pytest.approx(12.0)


def test_the_fit_weighs_relative_errors() -> None:
    """Small nets count as much as large ones: a plain least-squares line would let the large ones decide the overhead."""
    x = np.array([1.0, 2.0, 4.0, 100.0, 200.0, 400.0])
    y = (1.0 * x + 1.0) * np.array([1.0, 1.0, 1.0, 1.02, 0.98, 1.02])
    sums: Sums = dict.fromkeys(NET_KINDS, x)
    fit = fitted(sums, dict.fromkeys(NET_KINDS, y))
    assert fit.overhead_ms["c_nas"] == pytest.approx(1.0, abs=0.1)
    assert abs(float(np.polyfit(x, y, 1)[1]) - 1.0) > 0.5


@pytest.mark.parametrize("confidence", [0.8, 0.95])
@pytest.mark.parametrize("nets", [4, 20])
def test_the_interval_holds_what_it_promises(confidence: float, nets: int) -> None:
    """Over many calibrations on a few or on many nets, about the promised share of further nets lies inside."""
    generator, inside = random(), []
    for _ in range(40):
        fit = fitted(*drawn(generator, nets, 0.02), confidence)
        for kind in NET_KINDS:
            x = generator.uniform(10, 40, 50)
            y = (SCALE[kind] * x + OVERHEAD_MS[kind]) * (1 + 0.02 * generator.standard_normal(50))
            predicted = fit.scale[kind] * x + fit.overhead_ms[kind]
            inside.append(np.abs(y - predicted) <= predicted * fit.interval_pct[kind] / 100)
    assert float(np.mean(inside)) == pytest.approx(confidence, abs=0.035)


def test_each_kind_of_net_has_an_interval_of_its_own() -> None:
    """One kind four times as noisy as the others: about the promised share of each kind's further nets lies inside its interval."""
    generator = random()
    spreads: dict[NetKind, float] = {"c_nas": 0.01, "d_nas": 0.04, "dc_nas": 0.01}
    inside: dict[NetKind, list[np.ndarray]] = {kind: [] for kind in NET_KINDS}
    for _ in range(60):
        sums: Sums = {kind: generator.uniform(10, 40, 6) for kind in NET_KINDS}
        fit = fitted(sums, {kind: x * (1 + spreads[kind] * generator.standard_normal(6)) for kind, x in sums.items()})
        for kind, spread in spreads.items():
            x = generator.uniform(10, 40, 50)
            predicted = fit.scale[kind] * x + fit.overhead_ms[kind]
            off = np.abs(x * (1 + spread * generator.standard_normal(50)) - predicted)
            inside[kind].append(off <= predicted * fit.interval_pct[kind] / 100)
    for kind in NET_KINDS:
        assert float(np.mean(inside[kind])) == pytest.approx(0.95, abs=0.05)


def test_too_few_nets_to_fit_are_a_bug() -> None:
    """Two nets cannot tell a line from its errors; the parameters ask for four."""
    with pytest.raises(AssertionError, match="2 nets cannot fit"):
        fitted(*drawn(random(), 2, 0.0))


def test_a_prediction_is_the_calibrated_sum_with_its_interval() -> None:
    """Scale and overhead are those of the net's own kind, and the interval is a share of the prediction."""
    parts = parts_of("c_nas", GENOTYPE, height=64, width=64, classes=10)
    table = LookupTable(dict.fromkeys(parts, 0.25), modulus=8)
    fit = Calibration(
        scale=SCALE,
        overhead_ms=OVERHEAD_MS,
        spread_pct=dict.fromkeys(NET_KINDS, 1.0),
        interval_pct={"c_nas": 4.0, "d_nas": 2.0, "dc_nas": 1.0},
        confidence=0.95,
        fitted_on=12,
        fitted_on_full_depth=12,
    )
    predictor = Predictor(table, fit)
    found = predictor.predict("c_nas", parts)
    assert found.ms == pytest.approx(0.95 * 0.25 * len(parts) + 0.5)
    assert (found.low_ms, found.high_ms) == pytest.approx((0.96 * found.ms, 1.04 * found.ms))
    joint = predictor.predict("dc_nas", parts)
    assert joint.ms == pytest.approx(0.25 * len(parts) + 2.0)
    assert (joint.low_ms, joint.high_ms) == pytest.approx((0.99 * joint.ms, 1.01 * joint.ms))
    with pytest.raises(LatencyKeyMissingError, match="decoder"):
        predictor.predict("d_nas", parts_of("d_nas", GENOTYPE, height=64, width=64, classes=10))


def test_the_errors_of_a_predictor_are_those_worked_out_by_hand() -> None:
    """Four nets of 10 ms off by +2, -4, +8 and -20 %."""
    nets = [timing(10.0, predicted, half=0.5, table_ms=9.0) for predicted in (10.2, 9.6, 10.8, 8.0)]
    found = accuracy_of("c_nas", nets)
    assert found.nets == 4
    assert found.mape_pct == pytest.approx(8.5)
    assert found.bias_pct == pytest.approx(-3.5)
    assert found.worst_pct == pytest.approx(20.0)
    assert found.table_mape_pct == pytest.approx(10.0)
    assert (found.within_5_pct, found.within_10_pct) == (50.0, 75.0)
    assert found.inside_interval_pct == 50.0


@pytest.mark.parametrize("seed", range(3))
def test_the_rank_correlations_are_those_of_scipy(seed: int) -> None:
    """Spearman and Kendall agree with an independent implementation."""
    generator = np.random.Generator(np.random.PCG64(seed))
    measured = generator.uniform(5, 10, 12)
    predicted = measured + generator.standard_normal(12)
    found = accuracy_of("c_nas", [timing(float(m), float(p)) for m, p in zip(measured, predicted, strict=True)])
    assert found.spearman == pytest.approx(stats.spearmanr(measured, predicted).statistic)
    assert found.kendall == pytest.approx(stats.kendalltau(measured, predicted).statistic)


@pytest.mark.parametrize("nets", [1, 3])
def test_nets_that_cannot_be_ranked_have_no_correlation(nets: int) -> None:
    """One net, or nets that are all alike, give 0 rather than no number."""
    found: Any = accuracy_of("c_nas", [timing(10.0, 10.0)] * nets)
    assert (found.spearman, found.kendall) == (0.0, 0.0)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 14, 48])
@pytest.mark.parametrize("probability", [0.5, 0.75, 0.9, 0.975, 0.995])
def test_students_quantile_is_scipys(freedom: int, probability: float) -> None:
    """Without SciPy an edge box gets the same intervals."""
    assert student_quantile(probability, freedom) == pytest.approx(
        stats.t.ppf(probability, freedom), rel=1e-9, abs=1e-9
    )


def test_a_net_far_from_those_that_were_fitted_is_predicted_less_surely() -> None:
    """The half-width at any sum is that of least squares on relative errors, worked out here from the fit's own normal matrix."""
    sums, measured = drawn(random(), 10, 0.01)
    fit, x = fitted(sums, measured), sums["c_nas"]
    line = fit.scale["c_nas"] * x + fit.overhead_ms["c_nas"]
    design = np.stack([x / line, 1 / line], axis=1)
    part = parts_of("c_nas", GENOTYPE, height=64, width=64, classes=10)[0]
    halves = {}
    for total in (5.0, 25.0, 120.0):
        found = Predictor(LookupTable({part: total}, modulus=8), fit).predict("c_nas", [part])
        row = np.array([total, 1.0]) / found.ms
        h = row @ np.linalg.inv(design.T @ design) @ row
        halves[total] = 100 * (found.high_ms / found.ms - 1)
        assert halves[total] == pytest.approx(fit.spread_pct["c_nas"] * np.sqrt(1 + h) * stats.t.ppf(0.975, 8))
    assert halves[25.0] < fit.interval_pct["c_nas"] < halves[5.0]


def test_the_interval_of_a_machine_that_was_slow_reaches_down_to_its_good_days() -> None:
    """What was taken in a slow phase may later be measured as much faster: the lower end says so, the prediction does not move."""
    parts = parts_of("c_nas", GENOTYPE, height=64, width=64, classes=10)
    table, fit = LookupTable(dict.fromkeys(parts, 0.25), modulus=8), fitted(*drawn(random(), 10, 0.01))
    calm, slow = (Predictor(table, fit, session_slow_pct=pct).predict("c_nas", parts) for pct in (0.0, 25.0))
    assert (slow.ms, slow.high_ms) == (calm.ms, calm.high_ms)
    assert slow.low_ms == pytest.approx(calm.low_ms / 1.25)


@pytest.mark.parametrize("seed", range(40))
def test_the_line_is_positive_at_every_net_that_was_fitted(seed: int) -> None:
    """However wild three or four nets are, no latency is predicted that cannot be."""
    generator = np.random.Generator(np.random.PCG64(seed))
    x = generator.uniform(1, 40, 3 + seed % 2)
    y = np.exp(generator.normal(0, 3, len(x)))
    fit = fitted({"c_nas": x}, {"c_nas": y})
    assert (fit.scale["c_nas"] * x + fit.overhead_ms["c_nas"] > 0).all()

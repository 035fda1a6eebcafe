"""What records say of themselves: those written by an earlier version of the program are still read."""

import json
from typing import Any

import pytest

from dcnas_schema.photo_records import ModelLatency
from dcnas_schema.provenance import DeviceState
from dcnas_schema.records import MeasuredLatency
from dcnas_schema.search_log import PredictedLatency

OF_THE_SIMPLE_TIMER = """{
  "batch": 32, "height": 96, "width": 96, "precision": "bf16", "memory_format": "channels_last", "runtime": "torch eager",
  "warmup": 2, "repeats": 10, "median_ms": 115.13, "p5_ms": 109.23, "p95_ms": 132.71, "device_median_ms": null,
  "before": {"load_average": 1.2, "absent": {}}, "after": {"load_average": 1.3, "other_processes": null}
}"""
"""As records of version 1 hold it that were published before passes were rejected."""


def test_a_latency_of_the_simple_timer_is_still_read() -> None:
    """It has its figures, counts nothing that was not counted, and is marked by no one."""
    found = MeasuredLatency.model_validate_json(OF_THE_SIMPLE_TIMER)
    assert (found.median_ms, found.p5_ms, found.p95_ms) == (115.13, 109.23, 132.71)
    assert (found.raw, found.kept, found.rejected, found.canary_reference_ms, found.others_pct) == (
        None,
        None,
        {},
        None,
        None,
    )
    assert not found.noisy


def test_noise_is_a_mark_with_its_reasons() -> None:
    """A latency with a reason is noisy, also when it is read again."""
    values = {**json.loads(OF_THE_SIMPLE_TIMER), "noise": ["fewer than 5 samples accepted"]}
    found = MeasuredLatency.model_validate_json(json.dumps(values))
    assert found.noisy
    assert MeasuredLatency.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize(
    ("clock", "device_ms", "found"),
    [
        ("wall", 7.0, (9.0, 8.0, 12.0)),
        ("cuda_events", 7.0, (7.0, 6.0, 7.5)),
        ("cuda_events", None, None),
        ("simulated", 7.0, None),
    ],
)
def test_a_latency_is_compared_by_the_profiles_clock(clock: Any, device_ms: float | None, found: Any) -> None:
    """A profile in a GPU's own time is never set beside a wall time; where there is no such figure there is nothing to compare."""
    latency = MeasuredLatency(
        batch=1,
        height=32,
        width=32,
        precision="fp32",
        memory_format="channels_last",
        warmup=1,
        repeats=5,
        median_ms=9.0,
        p5_ms=8.0,
        p95_ms=12.0,
        device_median_ms=device_ms,
        device_p5_ms=6.0,
        device_p95_ms=7.5,
        before=DeviceState(),
        after=DeviceState(),
    )
    assert latency.spread_by(clock) == found
    assert latency.by(clock) == (None if found is None else found[0])
    predicted = PredictedLatency(ms=7.7, low_ms=7.0, high_ms=8.0)
    both = ModelLatency(
        measured=latency, setting=None, profile_card=None, predicted=predicted, not_comparable=None, clock=clock
    )
    assert both.error_pct == (None if found is None else pytest.approx(100 * (7.7 / found[0] - 1)))

"""What records say of themselves: those written by an earlier version of the program are still read."""

import json

from dcnas_schema.records import MeasuredLatency

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

"""Progress where there is no terminal: plain lines, not too many, with the time left."""

import re

import pytest

from dcnas_harness import console
from dcnas_harness.console import progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands at its one entry, and an output that is no terminal."""
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    for variable in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(variable, raising=False)
    return now


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the lines printed since the last call."""
    return capsys.readouterr().out.splitlines()


def test_a_line_tells_count_time_left_and_note(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    """Six seconds a unit: after the second of eight, 36 seconds are left; the last line says that the work is done."""
    with progress("train", 8) as report:
        for done in (1, 2):
            clock[0] += 6.0
            report.update(done, f"loss {1 / done:.1f}")
        assert lines(capsys) == ["train: 1/8 ETA 0:00:42 loss 1.0", "train: 2/8 ETA 0:00:36 loss 0.5"]
        report.update(8)
        assert lines(capsys) == ["train: 8/8 done"]


def test_a_resumed_run_counts_its_rate_from_where_it_began(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    """Taken up after unit 90 of 100, ten seconds for unit 91 leave 90 seconds, not one."""
    with progress("train", 100) as report:
        clock[0] = 10.0
        report.update(91)
    assert lines(capsys) == ["train: 91/100 ETA 0:01:30"]


def test_fast_work_prints_few_lines(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    """A thousand units in ten seconds print at most a line every five seconds and the end, without control characters."""
    with progress("train", 1000) as report:
        for done in range(1, 1001):
            clock[0] = done / 100
            report.update(done)
    printed = lines(capsys)
    assert 2 <= len(printed) <= 3
    assert printed[-1] == "train: 1000/1000 done"
    assert all(re.fullmatch(r"[ -~]+", line) for line in printed)

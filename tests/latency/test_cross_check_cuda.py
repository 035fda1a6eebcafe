"""On a GPU our event timer agrees with others, warm, cold, replayed and between marks; tests skip themselves where there is none."""

import statistics
from collections.abc import Callable

import pytest
import torch

from dcnas_latency.cuda import Cuda
from dcnas_latency.timers import CapturedProgram, Program, choose_timer

ROUNDS, PARTS = 7, 4
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here"),
]


class Convolutions:
    """A few convolutions of a few hundred microseconds each; every one can be marked."""

    def __init__(self, parts: int = 1) -> None:
        self.layers = [torch.nn.Conv2d(128, 128, 3, padding=1, device="cuda").eval() for _ in range(parts)]
        self.image = torch.randn(32, 128, 56, 56, device="cuda")

    def run(self) -> object:
        """Run all once."""
        return self.run_marked(lambda: None)

    def run_marked(self, mark: Callable[[], None]) -> object:
        """Run all once, calling `mark` after each."""
        image = self.image
        for layer in self.layers:
            image = layer(image)
            mark()
        return image


def median_ms(program: Program, *, cache: str = "warm") -> float:
    """Return what our timer says of a program."""
    timer = choose_timer("cuda", cache=cache)  # type: ignore[arg-type] # a str that is one of the two
    return statistics.median(timer.sample(program).total_ms for _ in range(100))


def test_cold_events_agree_with_tritons_do_bench() -> None:
    """Both clear the second-level cache before each call: in interleaved rounds their medians differ by at most 3 %."""
    testing, ratios = pytest.importorskip("triton.testing"), []
    with torch.inference_mode():
        program = Convolutions()
        program.run()
        for _ in range(ROUNDS):
            ours = median_ms(program, cache="cold")
            ratios.append(ours / testing.do_bench(program.run, return_mode="median"))
    assert statistics.median(ratios) == pytest.approx(1, abs=0.03)


def test_a_replayed_graph_agrees_with_tritons_graph_timer() -> None:
    """A replay by our events and Triton's unrolled calls in a graph, neither of which clears a cache, differ by at most 3 %."""
    testing, ratios = pytest.importorskip("triton.testing"), []
    with torch.inference_mode():
        program = Convolutions(PARTS)
        replay = CapturedProgram(program, Cuda())
        for _ in range(ROUNDS):
            ours = median_ms(replay)
            with torch.cuda.stream(torch.cuda.Stream()):
                theirs = testing.do_bench_cudagraph(program.run, return_mode="median")
            ratios.append(ours / theirs)
    assert statistics.median(ratios) == pytest.approx(1, abs=0.03)


def test_warm_events_agree_with_many_calls_between_two_events() -> None:
    """With launches hidden one call costs what a hundredth of a hundred queued ones does, to 3 %."""
    ratios = []
    with torch.inference_mode():
        program = Convolutions(PARTS)
        program.run()
        for _ in range(ROUNDS):
            ours = median_ms(program)
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(20_000_000)
            start.record()
            for _ in range(100):
                program.run()
            end.record()
            torch.cuda.synchronize()
            ratios.append(ours / (start.elapsed_time(end) / 100))
    assert statistics.median(ratios) == pytest.approx(1, abs=0.03)


def test_the_parts_between_marks_add_up_to_the_run_without_marks() -> None:
    """Marks are events in the queue: the sum of the parts is the marked run, and that is the plain run to 3 %."""
    timer, ratios = choose_timer("cuda"), []
    with torch.inference_mode():
        program = Convolutions(PARTS)
        program.run()
        for _ in range(100):
            marked, plain = timer.sample(program, marked=True), timer.sample(program)
            assert len(marked.part_ms) == PARTS
            assert sum(marked.part_ms) == pytest.approx(marked.total_ms, rel=0.02)
            ratios.append(sum(marked.part_ms) / plain.total_ms)
    assert statistics.median(ratios) == pytest.approx(1, abs=0.03)

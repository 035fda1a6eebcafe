"""On a GPU our event timer agrees with Triton's do_bench; the test skips itself where there is none."""

import statistics

import pytest
import torch

from dcnas_latency.timers import choose_timer

ROUNDS = 7


class Convolution:
    """A convolution of a few hundred microseconds."""

    def __init__(self) -> None:
        self.layer = torch.nn.Conv2d(128, 128, 3, padding=1, device="cuda").eval()
        self.image = torch.randn(32, 128, 56, 56, device="cuda")

    def run(self) -> object:
        """Run it once."""
        return self.layer(self.image)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")
def test_cold_events_agree_with_tritons_do_bench() -> None:
    """Both clear the second-level cache before each call: in interleaved rounds their medians differ by at most 3 %."""
    testing = pytest.importorskip("triton.testing")
    timer, ratios = choose_timer("cuda", cache="cold"), []
    with torch.inference_mode():
        program = Convolution()
        program.run()
        for _ in range(ROUNDS):
            ours = statistics.median(timer.sample(program).total_ms for _ in range(100))
            ratios.append(ours / testing.do_bench(program.run, return_mode="median"))
    assert statistics.median(ratios) == pytest.approx(1, abs=0.03)

"""The expected latency against a slow reading and finite differences; what a space can reach."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from dcnas_schema.space import OP_SETS, PLACES, OpName
from dcnas_training.search_latency import NetLatency, expected_latency_ms, latency_loss, reach

STAGES = (2, 3, 4, 4, 4, 1)
OPS = OP_SETS[4]


def slow_block_ms(place: int, op: OpName, width: int) -> float:
    """Return an invented latency that differs with all three."""
    return 0.01 * (place + 1) + 0.002 * width + (0.3 if op.startswith("k5") else 0.0)


def net(stages: int = 6) -> NetLatency:
    """Return an invented net of 2 ms beside its blocks."""
    return NetLatency(block_ms=slow_block_ms, rest_ms=2.0, stages=stages)


def example() -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return logits of alphas and betas, and latencies, all random, float64."""
    generator = torch.Generator().manual_seed(0)
    alphas = torch.randn((18, 4), generator=generator, dtype=torch.float64)
    betas = [torch.randn(depth, generator=generator, dtype=torch.float64) for depth in STAGES]
    return alphas, torch.rand((18, 4), generator=generator, dtype=torch.float64), betas


def slowly(weights: Tensor, block_ms: Tensor, betas: Sequence[Tensor] | None) -> float:
    """Return the expected latency by loops over every depth, block and op."""
    total, place = 2.0, 0
    for number, depth in enumerate(STAGES):
        costs = [
            sum(float(weights[place + block, op]) * float(block_ms[place + block, op]) for op in range(4))
            for block in range(depth)
        ]
        for last in range(depth):
            chance = float(last == depth - 1) if betas is None else float(betas[number][last])
            total += chance * sum(costs[: last + 1])
        place += depth
    return total


@pytest.mark.parametrize("sink", [False, True])
def test_expected_latency_is_the_slow_reading(sink: bool) -> None:
    """Summed over ops, blocks and depths one by one, the expectation is the same to 1e-10."""
    alphas, block_ms, betas = example()
    weights, depths = alphas.softmax(1), [beta.softmax(0) for beta in betas] if sink else None
    found = float(expected_latency_ms(weights, block_ms, 2.0, depths))
    assert found == pytest.approx(slowly(weights, block_ms, depths), abs=1e-10)


@pytest.mark.parametrize("target_ms", [3.0, 300.0])
def test_latency_loss_has_the_gradient_of_finite_differences(target_ms: float) -> None:
    """On both sides of the target, the gradients of alphas and betas are those of central differences to 1e-8."""
    alphas, block_ms, betas = example()
    values = [alphas.requires_grad_(), *(beta.requires_grad_() for beta in betas)]

    def loss() -> Tensor:
        depths = [beta.softmax(0) for beta in values[1:]]
        return 0.1 * latency_loss(expected_latency_ms(values[0].softmax(1), block_ms, 2.0, depths), target_ms)

    loss().backward()
    for value in values:
        assert value.grad is not None
        flat, step = value.detach().view(-1), 1e-6
        for index in range(0, len(flat), 3):
            before = float(flat[index])
            ends = []
            for shift in (step, -step):
                flat[index] = before + shift
                ends.append(float(loss().detach()))
            flat[index] = before
            slope = (ends[0] - ends[1]) / (2 * step)
            assert float(value.grad.view(-1)[index]) == pytest.approx(slope, abs=1e-8)


def test_a_denoisers_latency_knows_its_own_blocks_alone() -> None:
    """Blocks of the last two network stages cost nothing where the denoiser is bounded."""
    table = net(stages=4).table(OPS, [[10] * 4 for _ in PLACES])
    assert all(value > 0 for row in table[:13] for value in row)
    assert all(value == 0 for row in table[13:] for value in row)
    blocks = [(place, OPS[0], 10) for place in range(18)]
    assert net(stages=4).total(blocks) == pytest.approx(2 + sum(slow_block_ms(*block) for block in blocks[:13]))


@pytest.mark.parametrize("sink", [False, True])
def test_no_net_lies_outside_the_reach(sink: bool) -> None:
    """The ends are those found by trying every op and width of every block, with depth one where depths are learned."""
    found = reach(net(), OPS, width_multiple=8, elastic_depth=sink)
    least = greatest = 2.0
    for number, place in enumerate(PLACES):
        lows, highs = [], []
        for op, ratio in zip(OPS, (4, 8, 4, 8), strict=True):
            most = place.in_channels * ratio
            tried = [slow_block_ms(number, op, width) for width in range(most // 2, most + 1) if width % 8 == 0]
            lows.append(min(tried))
            highs.append(max(tried))
        least += min(lows) if place.block == 0 or not sink else 0
        greatest += max(highs)
    assert (found.least_ms, found.greatest_ms) == pytest.approx((least, greatest))
    assert found.holds(least + 1e-9)
    assert not found.holds(least - 0.01)
    assert not found.holds(greatest + 0.01)

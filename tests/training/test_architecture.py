"""Architecture steps: a toy space that must be searched rightly, the derived genotype, scaling to the target."""

import pytest
import torch
from torch import Tensor

from dcnas_schema.genotype import parts_of
from dcnas_schema.search_params import ArchitectureParams
from dcnas_schema.space import OP_SETS, PLACES, OpName
from dcnas_training.architecture import (
    Architecture,
    ArchitectureOptimizer,
    chosen_depths,
    chosen_ops,
    derive,
    scale_to_target,
)
from dcnas_training.elasticity import starting_widths
from dcnas_training.search_latency import NetLatency, expected_latency_ms, latency_loss
from dcnas_training.search_sampling import gumbel_noise, soft_weights, temperature

CPU = torch.device("cpu")
TOY_LOSS = torch.tensor([0.60, 0.00, 0.05, 0.30])
"""Task loss of each op of the toy: op 1 is best but too slow, op 2 the best that fits, op 0 fast and bad, op 3 slow and bad."""
TOY_MS = torch.tensor([0.5, 4.0, 1.0, 3.0])
STAGES = (2, 3, 4, 4, 4, 1)


def toy_search(seed: int, *, weight: float) -> list[int]:
    """Search three places with the real steps, 40 epochs of 2 steps, so few that they are larger; return the ops chosen."""
    architecture = Architecture(3, 4, depths=None, device=CPU)
    optimizer = ArchitectureOptimizer(architecture, ArchitectureParams(learning_rate=0.05))
    generator = torch.Generator().manual_seed(seed)
    block_ms, rest_ms = TOY_MS.expand(3, 4), 1.0
    for epoch in range(40):
        heat = temperature(epoch, start=5.0, decay=0.92, warmup_epochs=0)
        for _ in range(2):
            weights = soft_weights(architecture.log_alphas, gumbel_noise((3, 4), generator), heat)
            task = (weights * TOY_LOSS).sum()
            expected = (weights * block_ms).sum() + rest_ms
            optimizer.step(task + weight * latency_loss(expected, rest_ms + 3 * 1.0))
    return chosen_ops(architecture.log_alphas.detach())


def test_the_search_finds_the_best_op_that_fits() -> None:
    """With the latency loss, 20 seeds of 20 end at the best op that meets the target, at all places."""
    assert [toy_search(seed, weight=0.4) for seed in range(20)] == [[2, 2, 2]] * 20


def test_without_the_latency_loss_it_finds_the_best_op() -> None:
    """The too slow op wins where latency has no weight: it is the latency loss that decides."""
    assert [toy_search(seed, weight=0.0) for seed in range(3)] == [[1, 1, 1]] * 3


def test_a_step_changes_the_architecture_alone() -> None:
    """Weights in the graph get no gradient, and log-alphas and log-betas are normalised afterwards."""
    architecture = Architecture(18, 4, depths=STAGES, device=CPU)
    weight = torch.ones((), requires_grad=True)
    depths = architecture.depth_weights()
    assert depths is not None
    soft = architecture.log_alphas.softmax(1)
    loss = weight * (soft * torch.arange(4.0)).sum() + sum((depth[0] for depth in depths), torch.zeros(()))
    before = [value.detach().clone() for value in architecture.parameters()]
    ArchitectureOptimizer(architecture, ArchitectureParams()).step(loss)
    assert weight.grad is None
    assert all(
        not torch.equal(old, new.detach()) for old, new in zip(before[:-1], architecture.parameters(), strict=False)
    )
    assert torch.equal(before[-1], architecture.log_betas[-1].detach()), "a stage of one block has no choice"
    torch.testing.assert_close(architecture.log_alphas.detach().exp().sum(1), torch.ones(18))
    for log_beta in architecture.log_betas:
        torch.testing.assert_close(log_beta.detach().exp().sum(), torch.tensor(1.0))


def test_the_gradient_is_clipped() -> None:
    """The step is blind to a loss a million times as great, as Adam's would not be to the ratio of two clipped steps."""
    found = []
    for scale in (1e3, 1e9):
        architecture = Architecture(2, 3, depths=None, device=CPU, dtype=torch.float64)
        optimizer = ArchitectureOptimizer(architecture, ArchitectureParams(clip=0.01))
        optimizer.step(scale * architecture.log_alphas[0, 0])
        optimizer.step(architecture.log_alphas[0, 1])
        found.append(architecture.log_alphas.detach())
    torch.testing.assert_close(found[0], found[1])


def test_a_saved_architecture_comes_back() -> None:
    """What was saved is restored bit for bit; a missing part is an error."""
    architecture = Architecture(18, 4, depths=STAGES, device=CPU)
    ArchitectureOptimizer(architecture, ArchitectureParams()).step(architecture.log_alphas[0, 0])
    saved = {**architecture.to_save()}
    other = Architecture(18, 4, depths=STAGES, device=CPU)
    other.restore(saved)
    assert torch.equal(other.log_alphas, architecture.log_alphas)
    with pytest.raises(KeyError, match="log_alphas"):
        other.restore({})


def block_ms(_place: int, op: OpName, width: int) -> float:
    """Return an invented latency."""
    return 0.001 * width * (2 if op.startswith("k5") else 1)


def test_the_derived_net_has_the_likeliest_ops_and_depths() -> None:
    """Ops, widths and depths of the genotype are those of the greatest alphas and betas; later blocks are dropped."""
    ops = OP_SETS[4]
    log_alphas = torch.zeros(18, 4)
    log_alphas[:, 3] = 1
    log_alphas[2, 0] = 2
    betas = [torch.eye(depth)[1] if depth > 1 else torch.zeros(1) for depth in STAGES]
    widths = starting_widths(ops, width_multiple=8)
    genotype = derive(ops, chosen_ops(log_alphas), chosen_depths(betas), widths)
    assert [len(stage) for stage in genotype.stages] == [2, 2, 2, 2, 2, 1]
    assert [(choice.op, choice.mid_channels) for choice in genotype.stages[1]] == [("k3_e3", 72), ("k5_e6", 240)]
    full = derive(ops, chosen_ops(log_alphas), chosen_depths([]), widths)
    assert tuple(len(stage) for stage in full.stages) == STAGES
    assert len(parts_of("dc_nas", full, height=64, width=64, classes=5)) == 26


@pytest.mark.parametrize("stages", [4, 6])
def test_scaling_reaches_the_target_and_touches_the_bounded_net_alone(stages: int) -> None:
    """Behind scaling the derived net is just under the target; ops not chosen, and blocks it does not have, keep their widths."""
    ops, widths = OP_SETS[4], starting_widths(OP_SETS[4], width_multiple=8)
    choices = [place % 4 for place in range(18)]
    net = NetLatency(block_ms=block_ms, rest_ms=1.0, stages=stages)
    start = net.total([(place, ops[op], widths[place][op]) for place, op in enumerate(choices)])
    for target_ms in (0.85 * start, 1.15 * start):
        scaled = scale_to_target(net, ops, choices, list(STAGES), widths, target_ms=target_ms, width_multiple=8)
        assert {place: op for place, (op, _) in scaled.items()} == dict(enumerate(choices[: len(net.places())]))
        latency = net.total([(place, ops[op], width) for place, (op, width) in scaled.items()])
        assert 0.98 * target_ms < latency <= target_ms


def test_the_expected_latency_of_a_settled_architecture_is_the_derived_nets() -> None:
    """With all weight on one op a place and one depth a stage, expectation and derived net agree."""
    ops, widths = OP_SETS[4], starting_widths(OP_SETS[4], width_multiple=8)
    net = NetLatency(block_ms=block_ms, rest_ms=1.0, stages=6)
    choices, depths = [place % 4 for place in range(18)], [1, 3, 2, 4, 1, 1]
    weights = torch.nn.functional.one_hot(torch.tensor(choices), 4).double()
    ends: list[Tensor] = [torch.eye(full, dtype=torch.float64)[at - 1] for full, at in zip(STAGES, depths, strict=True)]
    table = torch.tensor(net.table(ops, widths), dtype=torch.float64)
    kept = [n for n, place in enumerate(PLACES) if place.block < depths[place.stage - 1]]
    derived = net.total([(place, ops[choices[place]], widths[place][choices[place]]) for place in kept])
    assert float(expected_latency_ms(weights, table, 1.0, ends)) == pytest.approx(derived, abs=1e-12)

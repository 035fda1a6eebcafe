"""Chance in the search: the paths' distribution, the temperature, the soft weights."""

import pytest
import torch

from dcnas_training.search_sampling import HostCopy, PathSampler, gumbel_noise, soft_weights, temperature


def sampler(seed: int = 0) -> PathSampler:
    """Return a sampler of that seed."""
    return PathSampler(torch.Generator().manual_seed(seed))


def test_first_paths_follow_the_alphas() -> None:
    """Op k is drawn with probability alpha_k: 4,000 draws lie within four standard deviations."""
    alphas = torch.tensor([0.5, 0.3, 0.15, 0.05])
    drawn = torch.tensor(sampler().first(alphas.log().expand(4000, 4)))
    counts = torch.bincount(drawn, minlength=4) / 4000
    assert bool(((counts - alphas).abs() < 4 * (alphas * (1 - alphas) / 4000).sqrt()).all())


def test_second_paths_are_uniform_over_the_others() -> None:
    """The second path never repeats the first's op, and each other one comes equally often."""
    first = [1] * 3000
    drawn = torch.tensor(sampler().second(first, 4))
    counts = torch.bincount(drawn, minlength=4) / 3000
    assert counts[1] == 0
    assert bool(((counts[[0, 2, 3]] - 1 / 3).abs() < 4 * (2 / 9 / 3000) ** 0.5).all())


def test_paths_depend_on_the_generator_alone() -> None:
    """One seed gives one sequence of paths, another another, and the global generator is not touched."""
    logits = torch.zeros(18, 8)
    state = torch.get_rng_state()
    runs = []
    for seed in (0, 0, 1):
        own = sampler(seed)
        first = own.first(logits)
        runs.append((first, own.second(first, 8)))
    assert runs[0] == runs[1] != runs[2]
    assert torch.equal(state, torch.get_rng_state())


def test_gumbel_noise_is_gumbel() -> None:
    """Mean and variance are Euler's constant and pi^2 / 6 within four standard errors."""
    noise = gumbel_noise((20_000, 1), torch.Generator().manual_seed(0)).double()
    assert float(noise.mean()) == pytest.approx(0.5772, abs=4 * 1.2826 / 20_000**0.5)
    assert float(noise.var()) == pytest.approx(1.6449, abs=0.1)


def test_soft_weights_sharpen_as_the_temperature_falls() -> None:
    """Rows sum to 1; a low temperature leaves all weight on the op with the greatest perturbed log-alpha."""
    logits, noise = torch.zeros(3, 4), gumbel_noise((3, 4), torch.Generator().manual_seed(2))
    warm, cold = (soft_weights(logits, noise, value) for value in (5.0, 0.001))
    torch.testing.assert_close(warm.sum(1), torch.ones(3))
    assert float(warm.detach().max()) < 0.9
    torch.testing.assert_close(cold.max(1).values, torch.ones(3))
    assert torch.equal(cold.argmax(1), noise.argmax(1))


def test_the_temperature_falls_after_the_warm_up() -> None:
    """It is 5 to epoch 10, and 0.2 in the last of TF-NAS's 90."""
    values = [temperature(epoch, start=5.0, decay=0.96, warmup_epochs=10) for epoch in range(90)]
    assert values[:11] == [5.0] * 11
    assert values[11] == pytest.approx(4.8)
    assert values[89] == pytest.approx(0.199, abs=0.001)


def test_a_host_copy_on_the_cpu_is_never_stale() -> None:
    """On a CPU the copy is the tensor itself."""
    tensor = torch.zeros(2, requires_grad=True)
    copy = HostCopy(tensor)
    with torch.no_grad():
        tensor += 1
    copy.refresh()
    assert copy.read().tolist() == [1, 1]

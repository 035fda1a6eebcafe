"""How much a search oscillates, and what its parameters refuse."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from dcnas_schema.search_log import argmax_flips, oscillation
from dcnas_schema.search_params import SearchSpec, SearchSupernetParams, TargetSpec

SPEC = {
    "ops": 4,
    "beta": "removed",
    "images": "clean",
    "loss": "classification",
    "bound": "classifier",
    "target": {"ms": 8.0},
    "width_multiple": 8,
}


def spec(**changes: Any) -> SearchSpec:
    """Return a search with changes, checked as from a file."""
    return SearchSpec.model_validate_json(json.dumps({**SPEC, **changes}))


def test_flips_count_changes_of_each_block() -> None:
    """A block that goes to and fro flips each time, one that stays never."""
    assert argmax_flips([[0, 1], [1, 1], [0, 1], [0, 2]]) == [2, 1]


def test_no_epochs_flip_nothing() -> None:
    """A log of one epoch or none has no flips."""
    assert argmax_flips([]) == []
    assert argmax_flips([[1, 2]]) == [0, 0]
    assert oscillation([]) == 0
    assert oscillation([[1, 2]]) == 0


def test_oscillation_looks_at_the_last_third() -> None:
    """What happened in the first two thirds does not count; the step into the last does."""
    early = [[epoch % 2] for epoch in range(6)] + [[1]] * 3
    assert oscillation(early) == 0
    late = [[0]] * 6 + [[1], [0], [1]]
    assert oscillation(late) == 3
    assert oscillation([[0, 0]] * 6 + [[1, 0], [1, 0], [1, 0]]) == 0.5


def test_a_spec_names_its_candidates_and_its_net() -> None:
    """Four ops are those without SE; the joint bound is the joint model."""
    assert all("se" not in op for op in spec().candidates)
    assert [spec(bound=bound).kind for bound in ("classifier", "joint", "denoiser")] == ["c_nas", "dc_nas", "d_nas"]


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ({"ms": 8.0}, "8 ms"),
        ({"relative": 1.2, "to": "mobilenet_v2"}, "1.2 x mobilenet_v2"),
        ({"reach": 0.25}, "25 % of the reach"),
    ],
)
def test_targets_come_in_three_kinds(target: dict[str, Any], text: str) -> None:
    """Milliseconds, so many times a reference net's latency, or a share of what the search space reaches."""
    assert str(TargetSpec.model_validate(target)) == text


@pytest.mark.parametrize(
    "target",
    [
        {},
        {"ms": 8.0, "relative": 1.0, "to": "resnet18"},
        {"relative": 1.0},
        {"to": "resnet18"},
        {"ms": 8.0, "to": "resnet18"},
        {"ms": 0.0},
        {"reach": 0.5, "ms": 8.0},
        {"reach": 0.5, "relative": 1.0, "to": "resnet18"},
        {"reach": 0.5, "to": "resnet18"},
        {"reach": 1.5},
    ],
)
def test_half_or_double_targets_are_refused(target: dict[str, Any]) -> None:
    """A target is exactly one of the three kinds, a share lies between 0 and 1, and a time above 0."""
    with pytest.raises(ValidationError):
        TargetSpec.model_validate(target)


def test_denoising_loss_on_clean_images_is_refused() -> None:
    """The decoder would have nothing to remove."""
    assert spec(loss="both", images="noisy").loss == "both"
    with pytest.raises(ValidationError, match="both needs noisy images"):
        spec(loss="both")


def test_a_boolean_is_no_number_of_ops() -> None:
    """`true` is not taken for a multiple of 1."""
    with pytest.raises(ValidationError):
        spec(width_multiple=True)


def test_defaults_are_the_papers_and_tf_nas() -> None:
    """Ninety epochs, ten of them warm-up; rate 2e-2; Adam at 0.01 with betas 0.5 and 0.999; temperature from 5."""
    params = SearchSupernetParams()
    assert (params.epochs, params.warmup_epochs, params.batch_size, params.learning_rate) == (90, 10, 32, 0.02)
    assert (params.clip, params.clip_noisy, params.momentum, params.weight_decay) == (5.0, False, 0.9, 1e-5)
    adam = params.architecture
    assert (adam.learning_rate, adam.beta1, adam.beta2, adam.weight_decay, adam.every) == (0.01, 0.5, 0.999, 5e-4, 2)
    assert (params.temperature.start, params.temperature.decay, params.latency_weight) == (5.0, 0.96, 0.1)


def test_a_search_that_never_leaves_its_warm_up_is_refused() -> None:
    """An architecture that no step changes is no search."""
    with pytest.raises(ValidationError, match="leave none of 3 epochs"):
        SearchSupernetParams(epochs=3, warmup_epochs=3)

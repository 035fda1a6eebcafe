"""The process that times beside the one that scores: what it answers is what timing here gives."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dcnas_evaluate.question import Question, SceneNet
from dcnas_evaluate.timing import measured_latency, timing_process
from dcnas_harness.errors import CorruptArtefactError
from dcnas_latency.card import device_card
from dcnas_nets.models import build_model
from dcnas_schema.params import Params
from dcnas_training.checkpoints import save_tensors

MODEL = "unet_s"


@pytest.fixture
def question(tmp_path: Path, tiny_params: Callable[..., Params]) -> Question:
    """A question after a small net."""
    params = tiny_params(
        {"evaluate.latency": {"measure": True, "batch": 2, "warmup": 1, "repeats": 3, "canary_band_pct": 15.0}}
    )
    spec = params.models[MODEL]
    save_tensors(tmp_path / "weights.safetensors", build_model(spec, seed=1).state_dict())
    return Question(
        scene_net=SceneNet(spec=spec),
        weights=str(tmp_path / "weights.safetensors"),
        height=40,
        width=48,
        precision="fp32",
        memory_format="channels_last",
        params=params.evaluate.latency,
        card=device_card("cpu"),
        scratch=str(tmp_path / "scratch"),
    )


def test_a_question_is_answered_in_both_ways(question: Question) -> None:
    """Here and in a process of its own: a latency of the batch and size asked for, and the same machine's reference op."""
    with timing_process(question.params, threads=2) as ask:
        beside = measured_latency(question, ask)
    here = measured_latency(question, None)
    for found in (beside, here):
        assert (found.batch, found.height, found.width, found.repeats) == (2, 40, 48, 3)
        assert 0 < found.p5_ms <= found.median_ms <= found.p95_ms
    assert set(json.loads(beside.model_dump_json())) == set(json.loads(here.model_dump_json()))


def test_nothing_to_time_starts_nothing(question: Question) -> None:
    """Where no latency is wanted, or one thread has no other to wait for, there is no one to ask."""
    with timing_process(question.params.model_copy(update={"measure": False}), threads=2) as ask:
        assert ask is None
    with timing_process(question.params, threads=1) as ask:
        assert ask is None


def test_damaged_weights_end_with_what_that_process_said(question: Question, capfd: pytest.CaptureFixture[str]) -> None:
    """Its own message names the file; ours says where to look."""
    Path(question.weights).write_bytes(b"x")
    with (
        timing_process(question.params, threads=2) as ask,
        pytest.raises(CorruptArtefactError, match="see what it said above"),
    ):
        measured_latency(question, ask)
    assert "weights.safetensors" in capfd.readouterr().err


def test_the_papers_unsynchronised_figure_is_taken_where_it_is_asked_for(question: Question) -> None:
    """A third figure beside the others, so that published tables can be compared like with like; else there is none."""
    asked = question.params.model_copy(update={"unsynchronised": True})
    found = measured_latency(question.model_copy(update={"params": asked}), None)
    assert found.unsynchronised_ms is not None
    assert 0.2 * found.median_ms < found.unsynchronised_ms < 20 * found.median_ms
    assert measured_latency(question, None).unsynchronised_ms is None
    assert (found.cache, found.tf32) == ("warm", False)

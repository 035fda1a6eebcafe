"""
Time a net of the literature in a process of its own: idle threads spin there as in every timing, while those of the search sleep.

Run:    python -m dcnas_search_supernet.reference PID    (the search starts it; PID is its own)
Takes:  on stdin a `Question` as JSON
Expect: on the last line of stdout the median latency in ms of one pass of a whole batch
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from dcnas_harness.asking import respond, respondent
from dcnas_harness.process import let_idle_threads_spin, run_stage
from dcnas_latency.call import CallPlan
from dcnas_schema.latency import LatencySetting
from dcnas_schema.photo_models import BaselineClassifier, BaselineSpec
from dcnas_schema.provenance import Record

_PLAN = CallPlan(warmup=20, repeats=100, canary_band_pct=15.0)


class Question(Record):
    """What is to be timed, how and where."""

    net: BaselineClassifier
    setting: LatencySetting
    device: Literal["cpu", "cuda"]
    scratch: str


def ask(net: BaselineClassifier, setting: LatencySetting, device: Literal["cpu", "cuda"], *, scratch: Path) -> float:
    """
    Return the median latency in ms of `net`, timed in a process of its own.

    Args:
        scratch: Folder where this machine's best time of the reference op is kept.

    Raises:
        UnfitEnvironmentError: That process failed; what it said stands above.
    """
    with respondent(__spec__.name) as answer:
        question = Question(net=net, setting=setting, device=device, scratch=str(scratch))
        return float(answer(question.model_dump_json()))


def main() -> None:
    """Answer one question."""
    let_idle_threads_spin()
    respond(_prepare)


def _prepare() -> Callable[[str], str]:
    # here, because torch's threads read the environment when it is imported
    import torch

    from dcnas_latency.card import device_card
    from dcnas_latency.in_setting import measure_in_setting
    from dcnas_nets.photo_nets import build_photo_net

    def answer(text: str) -> str:
        question = Question.model_validate_json(text)
        torch.set_num_threads(question.setting.threads)
        net = build_photo_net(BaselineSpec(kind=question.net), genotype=None, classes=question.setting.classes, seed=0)
        card = device_card(torch.device(question.device))
        return repr(measure_in_setting(net, question.setting, card, _PLAN, scratch=Path(question.scratch)).median_ms)

    return answer


if __name__ == "__main__":
    run_stage(main)

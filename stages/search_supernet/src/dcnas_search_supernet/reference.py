"""
Time a net of the literature in a process of its own: idle threads spin there as in every timing, while those of the search sleep.

Run:    python -m dcnas_search_supernet.reference    (the search starts it)
Takes:  on stdin JSON: `net`, its name; `setting`, how it runs; `device`, cpu or cuda
Expect: on the last line of stdout the median latency in ms of one pass of a whole batch
"""

import os
import subprocess
import sys
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from dcnas_harness.errors import UnfitEnvironmentError
from dcnas_harness.process import die_with_parent, let_idle_threads_spin, run_main
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
    parent: int
    """Pid of the search, which this process does not outlive."""


def ask(net: BaselineClassifier, setting: LatencySetting, device: Literal["cpu", "cuda"]) -> float:
    """
    Return the median latency in ms of `net`, timed in a process of its own.

    Raises:
        UnfitEnvironmentError: That process failed; what it said stands above.
    """
    question = Question(net=net, setting=setting, device=device, parent=os.getpid())
    done = subprocess.run(
        [sys.executable, "-m", "dcnas_search_supernet.reference"],
        input=question.model_dump_json(),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    lines = done.stdout.split()
    try:
        if done.returncode == 0 and lines:
            return TypeAdapter(float).validate_json(lines[-1])
    except ValidationError:
        pass
    raise UnfitEnvironmentError(
        f"{net} could not be timed: the process that was to do it ended with {done.returncode}.",
        remedy="see what it said above, or give the target in ms",
    )


def main() -> None:
    """Answer one question."""
    question = Question.model_validate_json(sys.stdin.read())
    die_with_parent(question.parent)
    let_idle_threads_spin()
    # here, because torch's threads read the environment when it is imported
    import torch

    from dcnas_latency.card import device_card
    from dcnas_latency.in_setting import measure_in_setting
    from dcnas_nets.photo_nets import build_photo_net

    torch.set_num_threads(question.setting.threads)
    net = build_photo_net(BaselineSpec(kind=question.net), genotype=None, classes=question.setting.classes, seed=0)
    card = device_card(torch.device(question.device))
    print(measure_in_setting(net, question.setting, card, _PLAN).median_ms)


if __name__ == "__main__":
    run_main(main)

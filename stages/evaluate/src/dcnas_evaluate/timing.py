"""
Time a trained net: in this process, or in one of its own, whose idle threads spin longer than those of the scoring process.

Run:    python -m dcnas_evaluate.timing PID    (evaluate starts it; PID is its own)
Takes:  on stdin a `Question` as JSON
Expect: on the last line of stdout a `MeasuredLatency` as JSON
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from dcnas_evaluate.question import Question
from dcnas_harness.asking import Ask, respond, respondent
from dcnas_harness.process import let_idle_threads_spin, run_stage
from dcnas_schema.digit_params import LatencyParams
from dcnas_schema.records import MeasuredLatency


def timing_process(params: LatencyParams, *, threads: int) -> AbstractContextManager[Ask | None]:
    """Return the context in which a process that times stands ready; it yields `None` where none is needed: one thread waits for none."""
    return respondent(__spec__.name) if params.measure and threads > 1 else nullcontext()


def measured_latency(question: Question, ask: Ask | None) -> MeasuredLatency:
    """
    Return the latency of a net, timed in the process behind `ask`.

    In this process where there is none, and on CUDA, where no thread of the host spins in the kernels and a second process on the
    device would disturb.

    Raises:
        UnfitEnvironmentError: That process failed; what it said stands above.
    """
    if ask is None or question.card.kind == "cuda":
        from dcnas_evaluate.latency import measure  # here, because this module is also the respondent's

        return measure(question)
    return MeasuredLatency.model_validate_json(ask(question.model_dump_json()))


def main() -> None:
    """Answer one question."""
    let_idle_threads_spin()
    respond(_prepare)


def _prepare() -> Callable[[str], str]:
    # here, because torch's threads read the environment when it is imported
    import torch

    from dcnas_evaluate.latency import measure
    from dcnas_training.execution import keep_freed_memory

    keep_freed_memory()

    def answer(text: str) -> str:
        question = Question.model_validate_json(text)
        torch.set_num_threads(question.card.threads)
        return measure(question).model_dump_json()

    return answer


if __name__ == "__main__":
    run_stage(main)

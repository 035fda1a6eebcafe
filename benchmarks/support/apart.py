"""Contenders in processes of their own: the allocator, the threads and the settings that one asks for are never another's."""

import multiprocessing
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection

import torch

Steps = Callable[[int], None]
"""Processes that many batches."""
Make = Callable[..., Mapping[str, Steps]]
"""A function of a module, which makes contenders by name; its arguments and itself are pickled."""


@contextmanager
def apart(*makers: tuple[Make, tuple[object, ...]]) -> Iterator[dict[str, Steps]]:
    """
    Start a process for each function with its arguments; give the contenders of all by name, to be run one at a time.

    A contender returns when its device is done. The processes end with the block.

    Raises:
        RuntimeError: A contender failed; the text is its traceback.
    """
    with ExitStack() as stack:
        contenders: dict[str, Steps] = {}
        for make, arguments in makers:
            contenders |= stack.enter_context(_process(make, arguments))
        yield contenders


@contextmanager
def _process(make: Make, arguments: tuple[object, ...]) -> Iterator[dict[str, Steps]]:
    context = multiprocessing.get_context(
        "spawn"
    )  # a fork would bring the allocator and the threads of this process along
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, make, arguments))
    process.start()
    there.close()
    try:
        yield {name: _Remote(here, name) for name in _answer(here)}
    finally:
        here.close()
        process.join()


class _Remote:
    def __init__(self, connection: Connection, name: str) -> None:
        self._connection, self._name = connection, name

    def __call__(self, count: int) -> None:
        self._connection.send((self._name, count))
        _answer(self._connection)


def _answer(connection: Connection) -> list[str]:
    try:
        answer: list[str] | str = connection.recv()
    except EOFError:
        raise RuntimeError("A contender's process ended by itself; is there memory for all of them at once?") from None
    if isinstance(answer, str):
        raise RuntimeError(answer)
    return answer


def _serve(connection: Connection, make: Make, arguments: tuple[object, ...]) -> None:
    """Be the process: run what is asked for until the other end closes."""
    try:
        contenders = make(*arguments)
        connection.send(list(contenders))
        while True:
            try:
                name, count = connection.recv()
            except EOFError:
                return
            contenders[name](count)
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            connection.send([])
    except BaseException:
        connection.send(traceback.format_exc())
        raise

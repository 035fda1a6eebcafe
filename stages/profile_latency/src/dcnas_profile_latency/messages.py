"""What the rig and its measuring processes say to each other: one JSON object a line, one answer to each request."""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from dcnas_latency.rig import RigSample, Subject
from dcnas_profile_latency.runtimes import DeviceKind
from dcnas_schema.latency import LatencySetting
from dcnas_schema.provenance import DeviceCard, DeviceState, Record


class Hello(Record):
    """The first request: how to run, and where."""

    op: Literal["hello"] = "hello"
    build: int
    setting: LatencySetting
    device_kind: DeviceKind


class Load(Record):
    """Make these subjects ready in the place of those loaded before."""

    op: Literal["load"] = "load"
    subjects: tuple[Subject, ...]


class Take(Record):
    """Time each subject of `order` once, after `warm_calls` untimed calls of its own."""

    op: Literal["sample"] = "sample"
    round: int
    marked: bool
    order: tuple[int, ...]
    warm_calls: int


class AskCard(Record):
    """Say what the device is; apart from `Hello`, because it may import torch for its version."""

    op: Literal["card"] = "card"


class AskState(Record):
    """Say how the device is now."""

    op: Literal["state"] = "state"


class Bye(Record):
    """End."""

    op: Literal["bye"] = "bye"


class Welcome(Record):
    """Answers `Hello`."""

    answer: Literal["welcome"] = "welcome"
    in_context: bool
    clock: Literal["wall", "cuda_events"]
    cores: tuple[int, ...]
    """That the process is bound to; empty where the system does not bind."""
    canary_op: str


class Done(Record):
    """Answers `Load` and `Bye`."""

    answer: Literal["done"] = "done"


class Samples(Record):
    """Answers `Take`, in its order."""

    answer: Literal["samples"] = "samples"
    samples: tuple[RigSample, ...]


class Card(Record):
    """Answers `AskCard`."""

    answer: Literal["card"] = "card"
    card: DeviceCard


class State(Record):
    """Answers `AskState`."""

    answer: Literal["state"] = "state"
    state: DeviceState


class Failed(Record):
    """Answers any request that could not be met."""

    answer: Literal["failed"] = "failed"
    error: str
    """Class of the error; one of `dcnas_harness.errors`, or any other where it is a bug or missing memory."""
    message: str
    trace: str = ""
    """Of a bug."""


Request = Hello | Load | Take | AskCard | AskState | Bye
Answer = Welcome | Done | Samples | Card | State | Failed
REQUEST: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="op")])
ANSWER: TypeAdapter[Answer] = TypeAdapter(Annotated[Answer, Field(discriminator="answer")])


def as_line(message: Request | Answer) -> str:
    """Return `message` as one line of JSON, its line feed included."""
    return message.model_dump_json() + "\n"

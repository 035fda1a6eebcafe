"""What every section of params.yaml is made of: the base class, and types of values."""

import difflib
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MOST = 1_000_000_000
"""The largest count: beyond it a number is a slip of the finger."""
Count = Annotated[int, Field(ge=1, le=MOST)]
CountOrZero = Annotated[int, Field(ge=0, le=MOST)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
Precision = Literal["auto", "fp32", "bf16"]


def no_boolean(value: Any) -> Any:
    """Refuse `true`, which pydantic takes for the 1 of a `Literal` even where it is strict."""
    if isinstance(value, bool):
        raise ValueError("should be a number")
    return value


class Section(BaseModel):
    """A part of params.yaml: immutable, no unknown keys, no silent conversion."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of a message on an unknown `word`: the known one that is most like it, or all of them."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"

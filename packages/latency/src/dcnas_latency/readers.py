"""Reading a machine that may not answer: each field by its own reader, and a reason wherever there is no answer."""

from collections.abc import Callable, Mapping
from typing import Any

Reader = Callable[[], Any]


class NotGivenError(Exception):
    """The machine does not give a value; the message says why."""


def read_fields(readers: Mapping[str, Reader]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the values that the machine gives and, for each field that it does not, the reason."""
    values, absent = {}, {}
    for field, reader in readers.items():
        try:
            values[field] = reader()
        except NotGivenError as error:
            absent[field] = str(error)
        except (OSError, ValueError, LookupError) as error:
            absent[field] = f"{type(error).__name__}: {error}"
    return values, absent

"""Which latencies share a column of a table or an axis of a figure: those of one device, one setting and one set of libraries."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from dcnas_lineage.cells import DEVICE
from dcnas_lineage.records import AnyEvaluation, measured_of
from dcnas_schema.photo_records import PhotoEvaluationMetadata
from dcnas_schema.provenance import DEVICE_FIELDS, DeviceCard
from dcnas_tabulate.comparing import AnyRun
from dcnas_tabulate.layout import Column

LatencyKey = tuple[tuple[str, str], ...]
"""Name and value of everything that latencies in one column have in common; what is not told stands as None."""
LATENCY = Column(title="Latency (ms)", key="latency_ms", reducer="median_spread")
DEVICE_TIME = Column(title="Device time (ms)", key="device_ms", reducer="median_spread", pointer=DEVICE)
_LIBRARIES = ("torch", "cuda", "cudnn")
"""Of the card: they make a net faster or slower on the same device, and so are no part of its fingerprint."""


def measured_key(metadata: AnyEvaluation) -> LatencyKey | None:
    """Return what tells a record's measured latency from others; `None` where it has none."""
    measured = measured_of(metadata)
    if measured is None:
        return None
    return _key(
        metadata.card,
        threads=metadata.card.threads,
        runtime=measured.runtime.replace(" ", "_"),
        precision=measured.precision,
        memory_format=measured.memory_format,
    )


def predicted_key(metadata: PhotoEvaluationMetadata) -> LatencyKey | None:
    """Return what tells a record's predicted latency from others, which is of the profile's device; `None` where it has none."""
    latency = metadata.latency
    if latency.predicted is None or latency.setting is None or latency.profile_card is None:
        return None
    setting = latency.setting
    return _key(
        latency.profile_card,
        threads=setting.threads,
        runtime=setting.runtime,
        precision=setting.precision,
        memory_format=setting.memory_format,
    )


def key_titles(keys: Iterable[LatencyKey | None]) -> dict[LatencyKey, str]:
    """Return a title for each of the keys: the name of its device, with what tells apart those that share it."""
    found = list(dict.fromkeys(key for key in keys if key is not None))
    titles = {}
    for key in found:
        name = dict(key)["name"]
        alike = [dict(other) for other in found if dict(other)["name"] == name]
        facts = [f"{fact} {value}" for fact, value in key if len({other[fact] for other in alike}) > 1]
        titles[key] = f"{name} ({', '.join(facts)})" if facts else name
    return titles


def drawn_latency(runs: Sequence[AnyRun]) -> tuple[LatencyKey | None, str]:
    """
    Return whose latencies a figure shows, for one axis holds those of one device, and what the axis says of them.

    Of several the key with the most records, of equal ones the first; `None` where nothing was measured.
    """
    keys = [key for run in runs for metadata in run.metadata if (key := measured_key(metadata)) is not None]
    if not keys:
        return None, "measured latency (ms)"
    ((most, _),) = Counter(keys).most_common(1)
    return most, f"measured latency (ms), {key_titles(keys)[most]}"


def latency_columns(found: Sequence[AnyEvaluation], titles: Mapping[LatencyKey, str]) -> list[Column]:
    """
    Return a column for the measured latencies of each key, and behind it one of the time on the device where that was told.

    Args:
        titles: Of all keys in the table; with one alone the titles of the columns name no device.
    """
    keys = {key: [m for m in found if measured_key(m) == key] for key in titles}
    return [
        one
        for key, records in keys.items()
        if records
        for column in (LATENCY, *([DEVICE_TIME] if any(_has_device_time(m) for m in records) else []))
        for one in [column_of(column, key, titles, where="on")]
    ]


def column_of(column: Column, key: LatencyKey, titles: Mapping[LatencyKey, str], *, where: str) -> Column:
    """Return a column of latencies for one key; its title names the device where there are several keys."""
    if len(titles) == 1:
        return replace(column, device=key)
    number = list(titles).index(key)
    return replace(column, title=f"{column.title} {where} {titles[key]}", key=f"{column.key}_{number}", device=key)


def _has_device_time(metadata: AnyEvaluation) -> bool:
    measured = measured_of(metadata)
    return measured is not None and measured.device_median_ms is not None


def _key(card: DeviceCard, *, threads: int, runtime: str, precision: str, memory_format: str) -> LatencyKey:
    facts: dict[str, object] = {name: getattr(card, name) for name in DEVICE_FIELDS}
    facts |= {"threads": threads, **{name: getattr(card, name) for name in _LIBRARIES}}
    facts |= {"runtime": runtime, "precision": precision, "memory format": memory_format}
    return tuple((name, str(value)) for name, value in facts.items())

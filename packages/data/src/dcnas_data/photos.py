"""Photo splits on disk: made from a source, in parallel and yet the same bytes; read back, their pictures still encoded."""

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dcnas_data.photo_files import Box, RefusedError, StoredPhoto, quiet_pillow, store_photo
from dcnas_data.photo_items import PhotoItem, PhotoSource
from dcnas_harness.errors import BadInputError, CorruptArtefactError
from dcnas_schema.parquet import ParquetSink, parquet_sink, read_parquet
from dcnas_schema.photo_params import PhotosParams
from dcnas_schema.photos import PHOTO_SPLITS, PHOTOS, PhotosMetadata, PhotoSplit, Refusal, RefusedFile, Repair

_ROWS = 512
"""Pictures of a row group: bounds the memory."""
_AHEAD = 16
"""Pictures in work for each thread."""
_MOST_NAMED = 1000
_NAMED_IN_ERROR = 3
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True, slots=True)
class Photos:
    """One split, its pictures still encoded."""

    images: pa.ChunkedArray
    """n encoded pictures."""
    labels: NDArray[np.int32]
    sizes: NDArray[np.int32]
    """n x (height, width) in pixels."""
    names: list[str]
    metadata: PhotosMetadata

    def encoded(self, number: int) -> bytes:
        """Return the encoded picture of a row."""
        content: bytes = self.images[number].as_py()
        return content


@dataclass(frozen=True, slots=True)
class _Outcome:
    item: PhotoItem
    digest: bytes
    """SHA-256 of the picture's bytes; empty where there were none to read."""
    result: StoredPhoto | Refusal


@dataclass(slots=True)
class _Tally:
    """What a split came to."""

    per_class: Counter[int] = field(default_factory=Counter)
    refused: list[tuple[PhotoItem, Refusal]] = field(default_factory=list)
    repaired: Counter[Repair] = field(default_factory=Counter)
    content: "hashlib._Hash" = field(default_factory=hashlib.sha256)


def write_photos(
    source: PhotoSource,
    params: PhotosParams,
    out: Path,
    *,
    threads: int,
    report: Callable[[int, str], None],
) -> dict[PhotoSplit, PhotosMetadata]:
    """
    Write `train.parquet`, `validation.parquet` and `test.parquet` into `out` and return what they say of themselves.

    Pictures that cannot be used are left out and counted by reason; those of the test part come first, so that a picture which stands
    in two parts, byte for byte, trains nothing. The files appear together at the end, and are the same for any number of `threads`.

    Args:
        report: Is told how many pictures are done, and of which split.

    Raises:
        BadInputError: A class has no usable picture in a split; nothing is written then.
    """
    tallies: dict[PhotoSplit, _Tally] = {split: _Tally() for split in PHOTO_SPLITS}
    seen: set[bytes] = set()
    done = 0
    with ExitStack() as stack:
        stack.enter_context(quiet_pillow())
        sinks = {split: stack.enter_context(parquet_sink(out / f"{split}.parquet", PHOTOS)) for split in PHOTO_SPLITS}
        for split in reversed(PHOTO_SPLITS):
            outcomes = _counted(_outcomes(source.splits[split], params, threads), tallies[split], frozenset(seen), seen)
            while kept := list(islice(outcomes, _ROWS)):
                _write(sinks[split], kept)
                done += len(kept)
                report(done + sum(len(tally.refused) for tally in tallies.values()), split)
            _require_every_class(split, tallies[split], source)
        described = {split: _metadata(split, tallies[split], source, params) for split in PHOTO_SPLITS}
        for split, sink in sinks.items():
            sink.describe(described[split])
    return described


def read_photos(path: Path) -> Photos:
    """
    Read one split; pictures stay encoded.

    Raises:
        CorruptArtefactError: The file is missing, damaged, or not a photo split.
    """
    table, metadata = read_parquet(path, PHOTOS, PhotosMetadata)
    labels: NDArray[np.int32] = table["label"].to_numpy()
    sizes: NDArray[np.int32] = np.stack([table["height"].to_numpy(), table["width"].to_numpy()], axis=-1)
    counts = np.bincount(labels.clip(0), minlength=len(metadata.classes)).tolist()
    if table.num_rows != metadata.images or tuple(counts) != metadata.per_class or (labels < 0).any():
        raise CorruptArtefactError(
            f"{path} holds {table.num_rows} images in {len(counts)} classes, which is not what its metadata says.",
            remedy="run: dvc repro generate_data",
        )
    return Photos(images=table["image"], labels=labels, sizes=sizes, names=table["name"].to_pylist(), metadata=metadata)


def ordered_map(function: Callable[[T], R], items: Iterable[T], *, threads: int, ahead: int) -> Iterator[R]:
    """
    Yield `function` of every item, in their order, worked out by `threads` threads, at most `ahead` items before they are asked for.

    What is in work when the caller stops asking is left undone.
    """
    with ExitStack() as stack:
        pool = ThreadPoolExecutor(threads, thread_name_prefix="photos")
        stack.callback(pool.shutdown, cancel_futures=True)
        waiting: deque[Future[R]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _outcomes(items: Iterable[PhotoItem], params: PhotosParams, threads: int) -> Iterator[_Outcome]:
    def work(item: PhotoItem) -> _Outcome:
        digest = b""
        try:
            content = item.read()
            digest = hashlib.sha256(content).digest()
            return _Outcome(item, digest, store_photo(content, size=params.size, encoding=params.encoding))
        except RefusedError as error:
            return _Outcome(item, digest, error.reason)

    yield from ordered_map(work, items, threads=threads, ahead=_AHEAD * threads)


def _counted(
    outcomes: Iterable[_Outcome], tally: _Tally, elsewhere: frozenset[bytes], seen: set[bytes]
) -> Iterator[tuple[PhotoItem, StoredPhoto]]:
    """Yield the usable pictures, count them and the others in `tally`, and note their digests in `seen`."""
    for outcome in outcomes:
        tally.content.update(outcome.item.name.encode() + b"\0" + outcome.digest)
        if isinstance(outcome.result, str):
            tally.refused.append((outcome.item, outcome.result))
        elif outcome.digest in elsewhere:
            tally.refused.append((outcome.item, "in another split"))
        else:
            seen.add(outcome.digest)
            tally.per_class[outcome.item.label] += 1
            tally.repaired.update(outcome.result.repairs)
            yield outcome.item, outcome.result


def _write(sink: ParquetSink, kept: Iterable[tuple[PhotoItem, StoredPhoto]]) -> None:
    rows = [
        {
            "image": photo.data,
            "label": item.label,
            "height": photo.height,
            "width": photo.width,
            "name": item.name,
            "box": _box(item, photo),
        }
        for item, photo in kept
    ]
    sink.write(pa.RecordBatch.from_pylist(rows, schema=PHOTOS))


def _box(item: PhotoItem, photo: StoredPhoto) -> Box:
    return photo.box if item.box is None else item.box


def _require_every_class(split: PhotoSplit, tally: _Tally, source: PhotoSource) -> None:
    for label, name in enumerate(source.classes):
        if tally.per_class[label]:
            continue
        refused = [(item.name, reason) for item, reason in tally.refused if item.label == label]
        named = "; ".join(f"{file}: {reason}" for file, reason in refused[:_NAMED_IN_ERROR])
        raise BadInputError(
            f"class {name} has no usable picture for {split}; {len(refused)} were refused"
            + (f" ({named})" if named else ""),
            where="params.yaml: generate_data.photos",
            remedy="add pictures of this class, or leave it out",
        )


def _metadata(split: PhotoSplit, tally: _Tally, source: PhotoSource, params: PhotosParams) -> PhotosMetadata:
    return PhotosMetadata(
        split=split,
        source=params.source,
        classes=source.classes,
        images=tally.per_class.total(),
        per_class=tuple(tally.per_class[label] for label in range(len(source.classes))),
        size=params.size,
        seed=params.seed,
        refused=dict(sorted(Counter(reason for _, reason in tally.refused).items())),
        repaired=dict(sorted(tally.repaired.items())),
        refused_files=tuple(RefusedFile(name=item.name, reason=reason) for item, reason in tally.refused[:_MOST_NAMED]),
        content_sha256=tally.content.hexdigest(),
    )

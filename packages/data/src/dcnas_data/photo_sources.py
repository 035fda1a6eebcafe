"""Where photographs come from: folders of classes, ImageNet-100, Parquet of encoded images; which picture goes to which split."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path

import numpy as np

from dcnas_data.photo_files import RefusedError
from dcnas_data.photo_items import PART_NAMES, PhotoItem, PhotoSource
from dcnas_harness.errors import BadInputError
from dcnas_schema.params import SplitCounts
from dcnas_schema.photo_params import PhotosParams
from dcnas_schema.photos import PHOTO_SPLITS, PhotoSplit

_CUT, _LIMIT = range(2)
"""Purposes of the generators."""


def open_source(params: PhotosParams) -> PhotoSource:
    """
    Return the pictures that `params` ask for; only names and labels are read here.

    Raises:
        BadInputError: A folder, file, column or list is missing or wrong, or a class has too few pictures for its splits.
    """
    if params.source == "demo":
        from dcnas_data.photo_demo import demo_source

        return demo_source(params)
    if params.source == "parquet":
        from dcnas_data.photo_parquet import parquet_parts

        classes, parts = parquet_parts(params)
    elif params.source == "imagenet100":
        classes, parts = _imagenet100_parts(params)
    else:
        classes, parts = _folder_parts(_folder(params.root, "root"))
    return _source(classes, parts, params)


def imagenet100_classes() -> tuple[str, ...]:
    """
    Return the 100 synsets in the order of their labels.

    Source: the class list that TF-NAS publishes (github.com/AberHu/TF-NAS, its dataset lists); WordNet identifiers and nothing else.
    """
    return tuple((files("dcnas_data") / "imagenet100_synsets.txt").read_text(encoding="ascii").split())


def _source(classes: Sequence[str], parts: Mapping[PhotoSplit, list[PhotoItem]], params: PhotosParams) -> PhotoSource:
    kept = tuple(classes[: params.most_classes])
    if len(kept) < 2:
        raise BadInputError(
            f"the photo set has {len(kept)} class{'' if len(kept) == 1 else 'es'}; a classifier needs two",
            where="params.yaml: generate_data.photos",
            remedy="give one folder (or label) to each class; a single folder of pictures has none",
        )
    few = {part: [item for item in items if item.label < len(kept)] for part, items in parts.items()}
    splits = split_parts(few, kept, params)
    return PhotoSource(classes=kept, splits=splits if params.most is None else _limited(splits, params.most, params))


def split_parts(
    parts: Mapping[PhotoSplit, list[PhotoItem]], classes: Sequence[str], params: PhotosParams
) -> dict[PhotoSplit, list[PhotoItem]]:
    """
    Make three splits of the parts that a source has.

    All three parts stay as they are. Of `train` and one other, the other is `test`, and `validation` is cut from `train` (so ImageNet's val
    is the test part). A source with one part is cut in three. A cut takes the same share of every class, at random by seed.
    """
    if set(parts) == set(PHOTO_SPLITS):
        return dict(parts)
    if "train" not in parts:
        raise BadInputError(
            f"the photo set has the parts {', '.join(parts) or 'none'} and no train",
            remedy="name the training part `train`",
        )
    given = parts.get("test", parts.get("validation"))
    shares = [params.validation_share] if given is not None else [params.validation_share, params.test_share]
    by_class: dict[int, list[int]] = defaultdict(list)
    for place, item in enumerate(parts["train"]):
        by_class[item.label].append(place)
    chosen: list[set[int]] = [set() for _ in shares]
    for label, name in enumerate(classes):
        for taken, places in zip(chosen, _cut(by_class[label], shares, params.seed, label, name), strict=True):
            taken.update(places)
    cut = [[parts["train"][place] for place in sorted(places)] for places in chosen]
    away = set().union(*chosen)
    return {
        "train": [item for place, item in enumerate(parts["train"]) if place not in away],
        "validation": cut[0],
        "test": cut[1] if given is None else given,
    }


def _cut(places: Sequence[int], shares: Sequence[float], seed: int, label: int, name: str) -> list[list[int]]:
    """Return the validation places, then the test places where they are asked for: a share of all, then of the rest; at least one each."""
    least = len(shares) + 1
    if len(places) < least:
        raise BadInputError(
            f"class {name} has {len(places)} training picture{'' if len(places) == 1 else 's'}; it needs {least}, one for each split",
            remedy="add pictures, or leave the class out",
        )
    order = [places[i] for i in np.random.Generator(np.random.PCG64([seed, label, _CUT])).permutation(len(places))]
    parts = []
    for left, share in sorted(enumerate(shares), reverse=True):  # test first: validation is a share of what trains
        count = min(max(1, round(share * len(order))), len(order) - left - 1)
        parts.append(order[:count])
        order = order[count:]
    return parts[::-1]


def _limited(
    splits: Mapping[PhotoSplit, Sequence[PhotoItem]], most: SplitCounts, params: PhotosParams
) -> dict[PhotoSplit, list[PhotoItem]]:
    """Keep at most so many pictures of each class in each split, drawn by seed, in their order."""
    limited = {}
    for number, split in enumerate(PHOTO_SPLITS):
        by_class: dict[int, list[int]] = defaultdict(list)
        for place, item in enumerate(splits[split]):
            by_class[item.label].append(place)
        kept: set[int] = set()
        for label, places in by_class.items():
            generator = np.random.Generator(np.random.PCG64([params.seed, label, _LIMIT, number]))
            kept.update(places[i] for i in generator.permutation(len(places))[: getattr(most, split)])
        limited[split] = [splits[split][place] for place in sorted(kept)]
    return limited


def _folder_parts(root: Path) -> tuple[tuple[str, ...], dict[PhotoSplit, list[PhotoItem]]]:
    names = _subfolders(root)
    if "train" in names and set(names) <= set(PART_NAMES):
        folders: dict[PhotoSplit, Path] = {PART_NAMES[name]: root / name for name in names}
        if len(folders) < len(names):
            raise BadInputError(f"{root} has two folders for one part: {', '.join(names)}", remedy="keep one of them")
    else:
        folders = {"train": root}
    classes = tuple(_subfolders(folders["train"]))
    for part, folder in folders.items():
        if unknown := sorted(set(_subfolders(folder)) - set(classes)):
            raise BadInputError(
                f"{folder} has classes that {folders['train']} has not: {', '.join(unknown[:5])}",
                remedy=f"give every class of {part} a training folder",
            )
    return classes, {part: _class_items(folder, classes, root) for part, folder in folders.items()}


def _imagenet100_parts(params: PhotosParams) -> tuple[tuple[str, ...], dict[PhotoSplit, list[PhotoItem]]]:
    root, classes = _folder(params.root, "root"), imagenet100_classes()
    wanted = classes[: params.most_classes]
    for part in ("train", "val"):
        missing = [synset for synset in wanted if not (root / part / synset).is_dir()]
        if missing:
            raise BadInputError(
                f"{root / part} lacks {len(missing)} of ImageNet-100's {len(wanted)} folders, {missing[0]} the first",
                where="params.yaml: generate_data.photos.root",
                remedy="lay ImageNet out as train/<synset>/*.JPEG and val/<synset>/*.JPEG",
            )
    parts: dict[PhotoSplit, list[PhotoItem]] = {"test": _class_items(root / "val", wanted, root)}
    if params.train_list is None or params.validation_list is None:
        return classes, {"train": _class_items(root / "train", wanted, root), **parts}
    listed = {path: _listed_items(Path(path), root, classes) for path in (params.train_list, params.validation_list)}
    return classes, {"train": listed[params.train_list], "validation": listed[params.validation_list], **parts}


def _listed_items(path: Path, root: Path, classes: Sequence[str]) -> list[PhotoItem]:
    """Return the pictures of a list with lines `synset/file.JPEG label`, paths relative to ImageNet's train folder."""
    try:
        lines = path.expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise BadInputError(
            f"{path} cannot be read as a list of files: {error}", remedy="give the published list"
        ) from error
    items = []
    for number, line in enumerate(lines, start=1):
        name, _, label = line.strip().rpartition(" ")
        synset = name.partition("/")[0]
        plain = name.count("/") == 1 and ".." not in name
        if not plain or synset not in classes or label != str(classes.index(synset)):
            raise BadInputError(
                f"{line!r} is not `synset/file label` with one of ImageNet-100's synsets and its rank",
                where=f"{path}, line {number}",
                remedy="give the published list of the 100 classes",
            )
        items.append(_file_item(root / "train" / name, classes.index(synset), root))
    return items


def _folder(path: str | None, key: str) -> Path:
    assert path is not None, "checked with the parameters"
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise BadInputError(
            f"{folder} is not a folder.",
            where=f"params.yaml: generate_data.photos.{key}",
            remedy="give the folder that holds one folder for each class",
        )
    return folder


def _class_items(folder: Path, classes: Iterable[str], root: Path) -> list[PhotoItem]:
    """Return every file that is not hidden, class by class, sorted by name; whether it is a picture shows when it is read."""
    return [
        _file_item(path, label, root)
        for label, name in enumerate(classes)
        for path in (sorted((folder / name).iterdir()) if (folder / name).is_dir() else ())
        if not path.name.startswith(".") and not path.is_dir()
    ]


def _file_item(path: Path, label: int, root: Path) -> PhotoItem:
    return PhotoItem(name=path.relative_to(root).as_posix(), label=label, read=partial(_read_file, path))


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RefusedError("missing or unreadable") from error


def _subfolders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))

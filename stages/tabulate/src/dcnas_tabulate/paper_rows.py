"""The rows of Tables 2 to 6, each with the rule that finds its model: rules on the models' descriptions and searches, not on names."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from dcnas_harness.errors import BadInputError
from dcnas_schema.digit_params import UNetSpec
from dcnas_schema.photo_models import (
    BaselineClassifier,
    BaselineSpec,
    CNasSpec,
    DCNasSeqSpec,
    DCNasSpec,
    DNasSpec,
    LpieNetSpec,
    LpieWidth,
    PhotoDCNetSpec,
    PhotoModelSpec,
    PhotoUNetSpec,
    SpaceSpec,
)
from dcnas_schema.search_params import SearchSpec, TargetSpec
from dcnas_schema.section import did_you_mean
from dcnas_schema.space import DecoderName

UNET_S = UNetSpec(depth=4, base=8, multiplier=1.5, convs=2)
UNET_M = UNetSpec(depth=4, base=16, multiplier=2.0, convs=2)
CLEAN = "fig4/text"
"""Sec. 4.1 in the paper's CSV: classifiers on clean photos."""
Size = Literal["S", "M", "L"]
_SIZES: dict[int, tuple[Size, ...]] = {1: ("M",), 2: ("S", "M"), 3: ("S", "M", "L")}
"""The paper's names of its targets, smallest first, by how many there are."""
_OPS = 4
"""Candidate ops of the paper's own recipe."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Book:
    """The searches, and what the paper calls the latencies that they aim at."""

    searches: Mapping[str, SearchSpec]
    sizes: Mapping[TargetSpec, Size] = field(default_factory=dict)
    any_size: bool = False
    """Whether a search is of every size: asks what a row would hold if sizes did not matter."""

    @classmethod
    def of(
        cls,
        searches: Mapping[str, SearchSpec],
        *,
        running: Collection[str] = (),
        named: Mapping[Size, str] | None = None,
    ) -> "Book":
        """
        Return the book of `searches`.

        Without names the targets of the paper's own recipe are S, M and L by their order; of two S and M, of one M; of more than three
        those that run. Still more, or targets of different kinds (in ms, relative to a net), have no order, and then no size either.

        Args:
            running: Names of the searches that run.

            named: Size -> a search that aims at it.

        Raises:
            BadInputError: A size is that of a search that is not there.
        """
        for size, name in (named or {}).items():
            if name not in searches:
                raise BadInputError(
                    f"tabulate.sizes.{size} names {name!r}, which searches does not define{did_you_mean(name, searches)}"
                )
        if named:
            return cls(searches=searches, sizes={searches[name].target: size for size, name in named.items()})
        targets = _targets(searches.values())
        if len(targets) not in _SIZES:
            targets = _targets(spec for name, spec in searches.items() if name in running)
        values = [_target_value(target) for target in targets]
        if len({unit for unit, _ in values}) != 1 or len(targets) not in _SIZES:
            return cls(searches=searches)
        ordered = sorted(zip(values, targets, strict=True), key=lambda pair: pair[0][1])
        names = _SIZES[len(targets)]
        return cls(searches=searches, sizes={target: name for (_, target), name in zip(ordered, names, strict=True)})

    def search_of(self, spec: PhotoModelSpec) -> SearchSpec | None:
        """Return the search that a model has its genotype from; `None` where it has it from elsewhere."""
        return self.searches.get(spec.search or "") if isinstance(spec, SpaceSpec) else None

    def size_of(self, spec: PhotoModelSpec) -> Size | None:
        """Return S, M or L for a searched model, or for a random one of equal latency."""
        search = self.searches.get(spec.named_search or "") if isinstance(spec, SpaceSpec) else None
        return None if search is None else self.sizes.get(search.target)

    def searched(
        self,
        spec: PhotoModelSpec,
        *,
        size: str | None = None,
        images: str = "noisy",
        loss: str = "classification",
        ops: int = _OPS,
        beta: str = "removed",
    ) -> bool:
        """Return whether a model has its genotype from such a search; `size` of None is any."""
        search = self.search_of(spec)
        if search is None or not is_recipe(search, images=images, loss=loss, ops=ops, beta=beta):
            return False
        return size is None or self.any_size or self.sizes.get(search.target) == size


def is_recipe(
    search: SearchSpec, *, images: str, loss: str = "classification", ops: int = _OPS, beta: str = "removed"
) -> bool:
    """Return whether a search is done as the paper does it: the target bounds the classifier, and the rest is as given."""
    found = (search.bound, search.images, search.loss, search.ops, search.beta)
    return found == ("classifier", images, loss, ops, beta)


_Match = Callable[[PhotoModelSpec, Book], bool]


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperRow:
    """A row of the paper, and the rule that finds the model that stands in it."""

    table: str
    label: str
    kind: str
    match: _Match
    model: str = ""
    """Name in the paper's CSV; the label where it is empty."""
    variant: str | None = None
    """There; the kind where it is `None`."""
    group: int = 0
    printed: bool = True
    """Whether the paper prints figures of it."""

    @property
    def reference(self) -> tuple[str, str, str] | None:
        """The row of the paper's CSV."""
        if not self.printed:
            return None
        return self.table, self.model or self.label, self.kind if self.variant is None else self.variant


def _unet(unet: UNetSpec) -> _Match:
    return lambda spec, _: isinstance(spec, PhotoUNetSpec) and spec.unet == unet


def _baseline(kind: BaselineClassifier, images: str = "noisy") -> _Match:
    return lambda spec, _: isinstance(spec, BaselineSpec) and (spec.kind, spec.images) == (kind, images)


def _lpienet(width: LpieWidth) -> _Match:
    return lambda spec, _: isinstance(spec, LpieNetSpec) and spec.width == width


def _classifier(size: str) -> _Match:
    return lambda spec, book: isinstance(spec, CNasSpec) and spec.images == "noisy" and book.searched(spec, size=size)


def _joint(size: str, *, images: str = "noisy", loss: str = "classification", decoder: DecoderName = "conv") -> _Match:
    return lambda spec, book: (
        isinstance(spec, DCNasSpec)
        and spec.decoder == decoder
        and book.searched(spec, size=size, images=images, loss=loss)
    )


def _on_clean(size: str | None, *, ops: int = _OPS, beta: str = "removed") -> _Match:
    return lambda spec, book: (
        isinstance(spec, CNasSpec)
        and spec.images == "clean"
        and book.searched(spec, size=size, images="clean", ops=ops, beta=beta)
    )


def _smallest(book: Book) -> str | None:
    return min(book.sizes.values(), key="SML".index, default=None)


def _exp_1(beta: str) -> _Match:
    """Experiment 1 of Sec. 4.1: the smallest target, ops without SE."""
    return lambda spec, book: (bool(book.sizes) or book.any_size) and _on_clean(_smallest(book), beta=beta)(spec, book)


INTEGRATED, SEQUENTIAL, CLASSIFIER, DENOISER = "integrated", "sequential", "classifier", "denoiser"
"""What a model does, in the words of the paper's Table 3."""

_DECODERS: tuple[tuple[DecoderName, str], ...] = (
    ("conv", "Conv decoder"),
    ("mbconv", "MBConv decoder"),
    ("one_operator", "MBConv decoder 1 operator"),
    ("three_layers", "MBConv decoder 3 layers"),
)
_LITERATURE: tuple[tuple[BaselineClassifier, str], ...] = (("mobilenet_v2", "MobileNetV2"), ("resnet18", "ResNet-18"))

PAPER_ROWS: tuple[PaperRow, ...] = (
    PaperRow(table="2", label="UNet-S", kind=DENOISER, match=_unet(UNET_S)),
    PaperRow(table="2", label="UNet-M", kind=DENOISER, match=_unet(UNET_M)),
    PaperRow(
        table="2",
        label="D-NAS M",
        kind=DENOISER,
        match=lambda spec, book: (
            isinstance(spec, DNasSpec) and spec.decoder == "conv" and book.searched(spec, size="M")
        ),
    ),
    PaperRow(table="3", label="MobileNetV3", kind=CLASSIFIER, match=_baseline("mobilenet_v3_small")),
    PaperRow(table="3", label="C-NAS S", kind=CLASSIFIER, match=_classifier("S")),
    PaperRow(table="3", label="UNet-S", kind=DENOISER, match=_unet(UNET_S)),
    PaperRow(
        table="3",
        label="DC-Net S",
        kind=INTEGRATED,
        match=lambda spec, _: isinstance(spec, PhotoDCNetSpec) and spec.unet == UNET_S,
    ),
    PaperRow(table="3", label="DC-NAS S", kind=INTEGRATED, match=_joint("S")),
    PaperRow(table="3", label="EfficientNetV2-b0", kind=CLASSIFIER, match=_baseline("efficientnetv2_b0"), group=1),
    PaperRow(table="3", label="C-NAS M", kind=CLASSIFIER, match=_classifier("M"), group=1),
    PaperRow(table="3", label="LPIENet 0.25x", kind=DENOISER, match=_lpienet("0.25x"), group=1),
    PaperRow(table="3", label="DC-NAS M", kind=INTEGRATED, match=_joint("M"), group=1),
    PaperRow(table="3", label="EfficientNetV2-b1", kind=CLASSIFIER, match=_baseline("efficientnetv2_b1"), group=2),
    PaperRow(table="3", label="C-NAS L", kind=CLASSIFIER, match=_classifier("L"), group=2),
    PaperRow(table="3", label="UNet-M", kind=DENOISER, match=_unet(UNET_M), group=2),
    PaperRow(table="3", label="LPIENet 0.5x", kind=DENOISER, match=_lpienet("0.5x"), group=2),
    PaperRow(table="3", label="DC-NAS L", kind=INTEGRATED, match=_joint("L"), group=2),
    *(
        PaperRow(
            table="4",
            label=f"DC-NAS M, searched on {images} images with {'L_Both' if loss == 'both' else 'L_CE'}",
            kind=INTEGRATED,
            match=_joint("M", images=images, loss=loss),
            model="DC-NAS M",
            variant=f"search {images} {'both' if loss == 'both' else 'CE'}",
        )
        for images, loss in (("clean", "classification"), ("noisy", "classification"), ("noisy", "both"))
    ),
    PaperRow(
        table="5",
        label="DC-NAS_seq L",
        kind=SEQUENTIAL,
        match=lambda spec, book: isinstance(spec, DCNasSeqSpec) and book.searched(spec, images="clean"),
    ),
    PaperRow(table="5", label="DC-NAS L", kind=INTEGRATED, match=_joint("L", images="clean")),
    *(
        PaperRow(
            table="6",
            label=f"DC-NAS M, {variant}",
            kind=INTEGRATED,
            match=_joint("M", decoder=decoder),
            model="DC-NAS M",
            variant=variant,
        )
        for decoder, variant in _DECODERS
    ),
    *(
        PaperRow(
            table=CLEAN,
            label=f"C-NAS, 4 ops, β {word}, smallest target",
            kind=CLASSIFIER,
            match=_exp_1(beta),
            model="C-NAS",
            variant=f"beta {word}",
        )
        for beta, word in (("removed", "removed"), ("sink", "learned"))
    ),
    *(
        PaperRow(
            table=CLEAN,
            label=f"C-NAS {size}, {ops} ops, β removed",
            kind=CLASSIFIER,
            match=_on_clean(size, ops=ops),
            group="SML".index(size),
            printed=False,
        )
        for size in "SML"
        for ops in (4, 6, 8)
    ),
    PaperRow(
        table=CLEAN,
        label="TF-NAS's recipe M, 8 ops, β learned",
        kind=CLASSIFIER,
        match=_on_clean("M", ops=8, beta="sink"),
        group=1,
        printed=False,
    ),
    *(
        PaperRow(table=CLEAN, label=label, kind=CLASSIFIER, match=_baseline(kind, "clean"), group=1, printed=False)
        for kind, label in _LITERATURE
    ),
)
"""In the paper's order; groups are its sections of one latency. Those of `fig4/text` are Sec. 4.1's, on clean photos."""


def _targets(searches: Iterable[SearchSpec]) -> list[TargetSpec]:
    """Return the different targets of the paper's recipe: those on noisy images, where there are any."""
    known = list(searches)
    noisy, clean = ([s.target for s in known if is_recipe(s, images=images)] for images in ("noisy", "clean"))
    return list(dict.fromkeys(noisy or clean))


def _target_value(target: TargetSpec) -> tuple[tuple[str, str | None], float]:
    """Return what a target is in, and how much of it: targets of one unit have an order."""
    given = target.model_dump(exclude_none=True)
    to = given.pop("to", None)
    ((unit, value),) = given.items()
    return (unit, to), float(value)

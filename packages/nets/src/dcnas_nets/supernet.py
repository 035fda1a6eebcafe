"""
The supernet: all candidates of all places on shared weights; it runs sampled paths, or all candidates weighted.

Source: TF-NAS (Hu et al. 2020, arXiv:2008.05314); without the betas it is the paper's search (arXiv:2409.08943, Sec. 4.1).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dcnas_harness.errors import BadInputError
from dcnas_nets.blocks import build_part
from dcnas_nets.mixed import Form, MixedBlock
from dcnas_nets.quick import quicken
from dcnas_nets.search_norm import without_affine_norms
from dcnas_nets.space import SpaceOutput
from dcnas_nets.unet import pad_to_stride
from dcnas_schema.genotype import STAGE_DEPTHS, parts_of, uniform_genotype
from dcnas_schema.keys import Part
from dcnas_schema.space import PLACES, SHARED_STAGES, SMALLEST_INPUT, STRIDE, OpName

DepthWeights = Sequence[Float[Tensor, " _"]]
"""For each network stage the weight of ending it after its 1st, 2nd, ... block; each sums to 1."""
_Step = Callable[[int, Tensor], Tensor]
"""What a pass does at the place of a number."""


class Supernet(nn.Module):
    """
    A classifier of the search space with every candidate at every place, and the decoder where the search needs it.

    Batch norm has no scale and shift and takes the batch's statistics, in validation too. Images as for `SpaceNet`.

    Args:
        ops: Candidates at every place, in the order of the architecture parameters.

        widths: Mid channels at the start, place x op.

        decoder: Attach it (search with both losses).

        form: How all candidates run at once.
    """

    def __init__(
        self, ops: Sequence[OpName], widths: Sequence[Sequence[int]], *, classes: int, decoder: bool, form: Form
    ) -> None:
        super().__init__()
        self.ops, self.classes = tuple(ops), classes
        fixed = {part.key.part: _fixed_part(part) for part in _fixed_parts(classes) if part.key.part != "decoder"}
        self.stem = nn.ModuleList([fixed["first_stem"], fixed["second_stem"]])
        self.blocks = nn.ModuleList(
            MixedBlock(place, ops, row, form) for place, row in zip(PLACES, widths, strict=True)
        )
        self.tail = nn.ModuleList([fixed["feature_mix"], fixed["head"]])
        levels = [part for part in _fixed_parts(classes) if part.key.part == "decoder"]
        self.decoder = nn.ModuleList(_fixed_part(part) for part in levels if decoder)

    def put_on(self, device: torch.device, memory_format: torch.memory_format) -> None:
        """
        Move everything to `device`; fixed weights and stores get `memory_format`.

        The weights in use are taken out anew, so that their strides are those that they have after every later `rescale` or `restore`:
        where a map has one pixel, a convolution's arithmetic follows its weight's strides, and a resumed run must have the same.
        """
        self.to(device=device, memory_format=memory_format)  # type: ignore[call-overload] # torch's stub lacks this pair
        for place in range(len(PLACES)):
            for candidate in self.at(place).of():
                candidate.take(candidate.active)

    def at(self, place: int) -> MixedBlock:
        """Return the mixed op at the place of that number."""
        block = self.blocks[place]
        assert isinstance(block, MixedBlock)
        return block

    def widths(self) -> list[list[int]]:
        """Return the mid channels in use, place x op."""
        return [[candidate.width for candidate in self.at(place).of()] for place in range(len(PLACES))]

    def paths(
        self,
        image_BCHW: Float[Tensor, "batch 3 height width"],
        paths: Sequence[Sequence[int]],
        depth_weights: DepthWeights | None = None,
    ) -> list[SpaceOutput]:
        """
        Run one candidate a place, once for each of `paths`; the stems run once for all.

        Args:
            paths: The number of the op at each place.

            depth_weights: Of a sink-connecting search; `None` takes each network stage's last block.
        """
        stem = self.through_stem(image_BCHW)
        size = (image_BCHW.shape[2], image_BCHW.shape[3])
        return [self.path_from(stem, path, depth_weights, size) for path in paths]

    def through_stem(self, image_BCHW: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch ch h2 w2"]:
        """
        Return the map at which every path begins.

        Raises:
            BadInputError: The images are smaller than `SMALLEST_INPUT`.
        """
        height, width = image_BCHW.shape[-2:]
        if min(height, width) < SMALLEST_INPUT:
            raise BadInputError(
                f"an image is {height}x{width} pixels; the search space takes {SMALLEST_INPUT}x{SMALLEST_INPUT} or more",
                remedy="search on larger images",
            )
        x = pad_to_stride(image_BCHW, STRIDE)
        for part in self.stem:
            x = part(x)
        return x

    def path_from(
        self,
        stem_BCHW: Float[Tensor, "batch ch h2 w2"],
        path: Sequence[int],
        depth_weights: DepthWeights | None,
        size: tuple[int, int],
    ) -> SpaceOutput:
        """
        Run one candidate a place on what `through_stem` made of images.

        Args:
            size: Height and width of the images.
        """
        return self._run(stem_BCHW, _along(self, path), depth_weights, size)

    def mixed(
        self,
        image_BCHW: Float[Tensor, "batch 3 height width"],
        weights: Float[Tensor, "place op"],
        depth_weights: DepthWeights | None = None,
    ) -> SpaceOutput:
        """
        Run all candidates everywhere, each times its weight: what an architecture step does.

        No gradient reaches the stems, which no architecture parameter precedes, and none of a candidate's weights may be asked for.

        Args:
            weights: Rows sum to 1.
        """
        with torch.no_grad():
            stem = self.through_stem(image_BCHW)

        def step(place: int, x: Tensor) -> Tensor:
            return self.at(place).all(x, weights[place], trains=False)

        return self._run(stem, step, depth_weights, (image_BCHW.shape[2], image_BCHW.shape[3]))

    def rescale(self, chosen: Mapping[int, tuple[int, int]]) -> None:
        """
        Give candidates new widths: the mid channels of the greatest L1 norm of their depthwise kernels at full width.

        Args:
            chosen: For each place concerned the number of the op, and its width.
        """
        with torch.no_grad():
            for place, (op, width) in chosen.items():
                candidate = self.at(place).of()[op]
                candidate.take(candidate.strongest(width))

    def to_save(self) -> dict[str, Any]:
        """Return all weights at full width, and the channels in use, as nested dicts of tensors."""
        fixed = {f"{name}.{key}": value for name in _FIXED for key, value in getattr(self, name).state_dict().items()}
        candidates = [[candidate.to_save() for candidate in self.at(place).of()] for place in range(len(PLACES))]
        return {"fixed": fixed, "candidates": candidates}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take up what `to_save` gave; a missing part is a `KeyError`. The parameters in use are new ones after this."""
        for name in _FIXED:
            own = getattr(self, name)
            own.load_state_dict({key: saved["fixed"][f"{name}.{key}"] for key in own.state_dict()})
        for place, states in enumerate(saved["candidates"]):
            for candidate, state in zip(self.at(place).of(), states, strict=True):
                candidate.restore(state)

    def _run(self, stem: Tensor, step: _Step, depth_weights: DepthWeights | None, size: tuple[int, int]) -> SpaceOutput:
        x, place, maps = stem, 0, [stem]
        for number, depth in enumerate(STAGE_DEPTHS):
            outputs = []
            for _ in range(depth):
                x = step(place, x)
                outputs.append(x)
                place += 1
            if depth_weights is not None:
                x = sum_weighted(outputs, depth_weights[number])
            maps.append(x)
        logits = x
        for part in self.tail:
            logits = part(logits)
        return SpaceOutput(self._decode(maps, size) if self.decoder else None, logits)

    def _decode(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        x, skips = maps[SHARED_STAGES], (maps[2], maps[1], maps[0], None)
        for level, skip in zip(self.decoder, skips, strict=True):
            x = level(x, skip)
        return x[..., : size[0], : size[1]]


_FIXED = ("stem", "tail", "decoder")


def build_supernet(
    ops: Sequence[OpName],
    widths: Sequence[Sequence[int]],
    *,
    classes: int,
    seed: int,
    decoder: bool = False,
    form: Form = "plain",
) -> Supernet:
    """Return the supernet with weights drawn from `seed` alone; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Supernet(ops, widths, classes=classes, decoder=decoder, form=form)


def sum_weighted(
    outputs: Sequence[Float[Tensor, "batch ch height width"]], weights: Float[Tensor, " depth"]
) -> Float[Tensor, "batch ch height width"]:
    """Return the weighted sum of a network stage's outputs at each depth; a single one is itself, its weight being 1."""
    if len(outputs) == 1:
        return outputs[0]
    total = outputs[0] * weights[0].to(outputs[0].dtype)
    for output, weight in zip(outputs[1:], weights[1:], strict=True):
        total = torch.addcmul(total, output, weight.to(output.dtype))
    return total


def _along(supernet: Supernet, path: Sequence[int]) -> _Step:
    return lambda place, x: supernet.at(place).one(x, path[place])


def _fixed_part(part: Part) -> nn.Module:
    module = without_affine_norms(build_part(part))
    quicken(module)
    return module


def _fixed_parts(classes: int) -> list[Part]:
    genotype = uniform_genotype("k3_e3", 3)
    parts = parts_of("dc_nas", genotype, height=SMALLEST_INPUT, width=SMALLEST_INPUT, classes=classes)
    return [part for part in parts if part.mid_channels is None]

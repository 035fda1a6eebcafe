"""
Candidates of a place on a CPU, one or all of them, forward and backward written out.

Between expansion and projection mid channels are independent of each other. So candidates of one kernel size run as one where their maps
are small: batch norm, activation and depthwise convolution there cost more to call than to compute. Products add up where they are
needed, maps that nobody needs again are overwritten, and a pass that trains no weight keeps nothing for it (`benchmarks/search.py`).
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import has_torch_function

from dcnas_nets.depthwise import depthwise_features, depthwise_gradients, in_full_precision_on_a_cpu
from dcnas_nets.search_norm import EPSILON, gradient_before_norm
from dcnas_schema.space import Place

_SHARE_BYTES = 5_000_000
"""Most that a map of several candidates may have: more gains no more, and leaves the cache."""


class Member(NamedTuple):
    """What is fixed of a candidate that runs."""

    width: int
    kernel_size: int
    squeeze: bool
    """Whether it squeezes and excites."""


def runs_written_out(x: Tensor, weight: Tensor) -> bool:
    """Whether `run_candidates` may stand for layers: in full precision on a CPU, where nobody puts another batch norm in torch's place."""
    return in_full_precision_on_a_cpu(x, weight) and not has_torch_function((x,))


def run_candidates(
    x_BCHW: Float[Tensor, "batch ch height width"],
    place: Place,
    members: Sequence[Member],
    parameters: Sequence[Sequence[Tensor]],
    weights: Float[Tensor, " member"] | None = None,
) -> Float[Tensor, "batch out h2 w2"]:
    """
    Return the output of one candidate, or the sum of several, each times its weight, and the input of a residual block once.

    Every gradient is there, the second ones are not.

    Args:
        parameters: Of each member the weights of expansion, depthwise convolution and projection and, where it squeezes, weight and bias of
            the squeeze and weight and bias of the excitation.

        weights: Must sum to 1; `None` where there is one member.
    """
    x = x_BCHW.contiguous(memory_format=torch.channels_last)
    flat = [parameter for own in parameters for parameter in own]
    features: Tensor = _Candidates.apply(x, weights, place, tuple(members), *flat)
    return features


class _Candidates(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weights: Tensor | None, place: Place, members: tuple[Member, ...], *parameters: Tensor
    ) -> Tensor:
        block = _Block(x, place, members, parameters, trains=any(ctx.needs_input_grad[4:]))
        features, kept = block.forward(weights)
        ctx.save_for_backward(x, *parameters, *kept.flat())
        ctx.place, ctx.members, ctx.trains = place, members, block.trains
        return features

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        saved = iter(ctx.saved_tensors)
        x = next(saved)
        parameters = tuple(islice(saved, sum(map(_count, ctx.members))))
        block = _Block(x, ctx.place, ctx.members, parameters, trains=ctx.trains)
        kept = _Kept.of(saved, shares=len(block.shares), members=ctx.members)
        of_x, of_weights, of_parameters = block.backward(gradients[0], kept, of_x=ctx.needs_input_grad[0])
        return of_x, of_weights, None, None, *of_parameters


class _Piece(NamedTuple):
    """A member in a share, and its channels there."""

    member: int
    here: slice


class _Share(NamedTuple):
    """Mid channels that run as one: those of members of one kernel size."""

    kernel_size: int
    width: int
    pieces: tuple[_Piece, ...]


class _Maps(NamedTuple):
    """What is kept of a share: both normalised maps, 1 / standard deviation of each of their channels, and what trains weights."""

    first: Tensor
    first_inverse: Tensor
    second: Tensor
    second_inverse: Tensor
    convolved: Tensor | None
    """The depthwise convolution's input."""
    projected: Tensor | None
    """The projection's, pixels x channels."""


class _Excitation(NamedTuple):
    """What is kept of a squeeze and excitation, all image x channels: the input's means, the squeeze before and after its activation."""

    means: Tensor
    squeezed: Tensor
    activated: Tensor
    gate: Tensor


class _LastNorm(NamedTuple):
    """Input, mean and 1 / standard deviation of the norm behind all projections, and its scale where members have weights."""

    x: Tensor
    mean: Tensor
    inverse: Tensor
    scale: Tensor | None


class _Kept(NamedTuple):
    maps: list[_Maps]
    excitations: dict[int, _Excitation]
    """By member, of those that squeeze."""
    last: _LastNorm

    def flat(self) -> list[Tensor | None]:
        """Return all tensors in an order that `of` knows."""
        parts = (*self.maps, *self.excitations.values(), self.last)
        return [tensor for part in parts for tensor in part]

    @staticmethod
    def of(saved: Iterator[Any], *, shares: int, members: Sequence[Member]) -> "_Kept":
        """Return what `flat` has taken apart."""
        maps = [_Maps(*islice(saved, len(_Maps._fields))) for _ in range(shares)]
        squeezing = [number for number, member in enumerate(members) if member.squeeze]
        excitations = {number: _Excitation(*islice(saved, len(_Excitation._fields))) for number in squeezing}
        return _Kept(maps, excitations, _LastNorm(*saved))


class _Block:
    """Members at a place, their weights, and the map on which they run."""

    def __init__(
        self, x: Tensor, place: Place, members: tuple[Member, ...], parameters: tuple[Tensor, ...], *, trains: bool
    ) -> None:
        self.x, self.place, self.members, self.trains = x, place, members, trains
        self.rows = _rows(x)
        self.relu = place.activation == "relu"
        self.residual = place.stride == 1 and place.in_channels == place.out_channels
        flat = iter(parameters)
        self.parameters = [tuple(islice(flat, _count(member))) for member in members]
        self.expansions = [own[0].flatten(1) for own in self.parameters]
        self.projections = [own[2].flatten(1) for own in self.parameters]
        self.shares = _shares(members, len(self.rows) * x.element_size())

    def forward(self, weights: Tensor | None) -> tuple[Tensor, _Kept]:
        batch, _, height, width = self.x.shape
        stride, out = self.place.stride, self.place.out_channels
        after = (batch, (height - 1) // stride + 1, (width - 1) // stride + 1)
        rows = self.x.new_empty((after[0] * after[1] * after[2], out * len(self.members)))
        maps, excitations = [], {}
        for share in self.shares:
            own, gated = self._through(share)
            for (member, _), features in zip(share.pieces, _split(gated, share), strict=True):
                if self.members[member].squeeze:
                    excitations[member] = self._excite(member, features.view(batch, -1, features.shape[1]))
                torch.mm(features, self.projections[member].t(), out=self._of(member, rows))
            maps.append(own)
        x = _as_map(rows, *after)
        scale = None if weights is None else weights.unsqueeze(1).expand(-1, out).reshape(-1)
        normalised, mean, inverse = torch.native_batch_norm(x, scale, None, None, None, True, 0.0, EPSILON)
        if weights is not None:
            summed = normalised.permute(0, 2, 3, 1).view(*after, -1, out).sum(3)
            normalised = summed.permute(0, 3, 1, 2)
        kept = _Kept(maps, dict(sorted(excitations.items())), _LastNorm(x, mean, inverse, scale))
        return normalised.add_(self.x) if self.residual else normalised, kept

    def backward(
        self, gradient: Tensor, kept: _Kept, *, of_x: bool
    ) -> tuple[Tensor | None, Tensor | None, list[Tensor | None]]:
        """Return the gradients of the map, of the members' weights and of all parameters, each where it is wanted."""
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_projections, of_weights = self._back_through_last(gradient, kept.last)
        sum_x = _Sum(gradient if self.residual else None, self.x) if of_x else None
        found = [[torch.empty_like(weight) for weight in own] if self.trains else None for own in self.parameters]
        for share, maps in zip(self.shares, kept.maps, strict=True):
            behind = self._back_through_projections(share, maps, kept, of_projections, found)
            behind_map = _as_map(behind, gradient.shape[0], gradient.shape[2], gradient.shape[3])
            mid, of_kernels = depthwise_gradients(
                self._back_through_norm(behind_map, maps.second, maps.second_inverse),
                maps.first if maps.convolved is None else maps.convolved,
                self._kernels(share),
                stride=self.place.stride,
                padding=share.kernel_size // 2,
                of_x=of_x or self.trains,
                of_weight=self.trains,
            )
            if mid is None:  # nothing before the convolution wants a gradient
                continue
            rows = _rows(self._back_through_norm(mid, maps.first, maps.first_inverse))
            for (member, here), own in zip(share.pieces, _split(rows, share), strict=True):
                if sum_x is not None:
                    sum_x.add_product(own, self.expansions[member])
                grads = found[member]
                if grads is not None and of_kernels is not None:
                    grads[1].copy_(of_kernels[here])
                    torch.mm(own.t(), self.rows, out=grads[0].flatten(1))
        of_parameters: list[Tensor | None] = []
        for own_parameters, grads in zip(self.parameters, found, strict=True):
            of_parameters += [None] * len(own_parameters) if grads is None else grads
        return None if sum_x is None else sum_x.total, of_weights, of_parameters

    def _through(self, share: _Share) -> tuple[_Maps, Tensor]:
        """Return what is kept of a share, and the features before squeezes and projections, pixels x channels."""
        batch, _, height, width = self.x.shape
        rows = self.x.new_empty((len(self.rows), share.width))
        for (member, _), own in zip(share.pieces, _split(rows, share), strict=True):
            torch.mm(self.rows, self.expansions[member].t(), out=own)
        expanded = _as_map(rows, batch, height, width)
        first, first_inverse = _norm(expanded)
        convolved = self._activate(first, expanded)
        features = depthwise_features(
            convolved, self._kernels(share), stride=self.place.stride, padding=share.kernel_size // 2
        )
        second, second_inverse = _norm(features)
        projected = _rows(self._activate(second, features))
        trained = (convolved, projected) if self.trains else (None, None)
        return _Maps(first, first_inverse, second, second_inverse, *trained), projected

    def _excite(self, member: int, features: Tensor) -> _Excitation:
        """Scale a member's features, image x pixels x channels, in place."""
        reduce, reduce_bias, expand, expand_bias = self.parameters[member][3:]
        means = features.mean(1)
        squeezed = torch.addmm(reduce_bias, means, reduce.flatten(1).t())
        activated = F.relu(squeezed) if self.relu else F.silu(squeezed)
        gate = torch.addmm(expand_bias, activated, expand.flatten(1).t()).sigmoid_()
        features.mul_(gate.unsqueeze(1))
        return _Excitation(means, squeezed, activated, gate)

    def _back_through_last(self, gradient: Tensor, last: _LastNorm) -> tuple[list[Tensor], Tensor | None]:
        """Return the gradients of the projections, pixels x channels, one a member, and of the members' weights."""
        members, out = len(self.members), self.place.out_channels
        if members > 1:
            gradient = gradient.permute(0, 2, 3, 1).repeat(1, 1, 1, members).permute(0, 3, 1, 2)
        wanted = [True, last.scale is not None, False]
        of_x, of_scale, _ = torch.ops.aten.native_batch_norm_backward(
            gradient, last.x, last.scale, None, None, last.mean, last.inverse, True, EPSILON, wanted
        )
        rows = _rows(of_x)
        of_weights = of_scale.view(members, out).sum(1) if last.scale is not None else None
        return [self._of(member, rows) for member in range(members)], of_weights

    def _back_through_projections(
        self, share: _Share, maps: _Maps, kept: _Kept, gradients: list[Tensor], found: list[list[Tensor] | None]
    ) -> Tensor:
        """Return the gradient of a share's features before squeezes and projections, pixels x channels."""
        rows = self.x.new_empty((len(gradients[0]), share.width))
        for (member, here), own in zip(share.pieces, _split(rows, share), strict=True):
            torch.mm(gradients[member], self.projections[member], out=own)
            grads = found[member]
            if grads is not None and maps.projected is not None:
                torch.mm(gradients[member].t(), maps.projected[:, here], out=grads[2].flatten(1))
            if self.members[member].squeeze:
                excitation = kept.excitations[member]
                shape = (len(excitation.gate), -1, share.width)
                second = maps.second.permute(0, 2, 3, 1).view(shape)[:, :, here]
                self._back_through_excitation(member, own.view(*shape[:2], own.shape[1]), second, excitation, grads)
        return rows

    def _back_through_excitation(
        self, member: int, gradient: Tensor, normalised: Tensor, excitation: _Excitation, found: list[Tensor] | None
    ) -> None:
        """Turn, in place, the gradient of the scaled features into that of the features, both image x pixels x channels."""
        means, squeezed, activated, gate = excitation
        reduce, _, expand, _ = self.parameters[member][3:]
        features = F.relu(normalised) if self.relu else F.silu(normalised)
        of_gate = features.mul_(gradient).sum(1)
        of_excited = torch.ops.aten.sigmoid_backward(of_gate, gate)
        of_squeezed = self._back_through_activation(of_excited @ expand.flatten(1), squeezed)
        of_means = of_squeezed @ reduce.flatten(1)
        torch.addcmul((of_means / gradient.shape[1]).unsqueeze(1), gradient, gate.unsqueeze(1), out=gradient)
        if found is not None:
            torch.mm(of_squeezed.t(), means, out=found[3].flatten(1))
            torch.sum(of_squeezed, 0, out=found[4])
            torch.mm(of_excited.t(), activated, out=found[5].flatten(1))
            torch.sum(of_excited, 0, out=found[6])

    def _back_through_norm(self, gradient: Tensor, normalised: Tensor, inverse: Tensor) -> Tensor:
        """Return the gradient before norm and activation; that behind them is overwritten."""
        gradient = self._back_through_activation(gradient, normalised)
        return gradient_before_norm(gradient, normalised, inverse)

    def _activate(self, x: Tensor, out: Tensor) -> Tensor:
        activated: Tensor = torch.clamp_min(x, 0, out=out) if self.relu else torch.ops.aten.silu.out(x, out=out)
        return activated

    def _back_through_activation(self, gradient: Tensor, x: Tensor) -> Tensor:
        """Turn the gradient behind the activation into that before it, in place."""
        if self.relu:
            return torch.ops.aten.threshold_backward.grad_input(gradient, x, 0, grad_input=gradient)  # type: ignore[no-any-return] # torch's ops are untyped
        return torch.ops.aten.silu_backward.grad_input(gradient, x, grad_input=gradient)  # type: ignore[no-any-return] # torch's ops are untyped

    def _kernels(self, share: _Share) -> Tensor:
        kernels = [self.parameters[member][1] for member, _ in share.pieces]
        return kernels[0] if len(kernels) == 1 else torch.cat(kernels)

    def _of(self, member: int, rows: Tensor) -> Tensor:
        out = self.place.out_channels
        return rows[:, member * out : (member + 1) * out]


class _Sum:
    """The gradient of the input: what the residual passes on, and a product for each member, added by the product itself."""

    def __init__(self, start: Tensor | None, like: Tensor) -> None:
        self.total = torch.empty_like(like) if start is None else start.clone()
        self._rows, self._empty = _rows(self.total), start is None

    def add_product(self, left: Tensor, right: Tensor) -> None:
        if self._empty:
            torch.mm(left, right, out=self._rows)
        else:
            self._rows.addmm_(left, right)
        self._empty = False


@lru_cache(maxsize=4096)
def _shares(members: tuple[Member, ...], channel_bytes: int) -> tuple[_Share, ...]:
    """Unite members of one kernel size, in their order, as far as a map of a channel of that size allows."""
    shares = []
    for kernel_size in sorted({member.kernel_size for member in members}):
        pieces: list[_Piece] = []
        total = 0
        for number, member in enumerate(members):
            if member.kernel_size != kernel_size:
                continue
            if pieces and (total + member.width) * channel_bytes > _SHARE_BYTES:
                shares.append(_Share(kernel_size, total, tuple(pieces)))
                pieces, total = [], 0
            pieces.append(_Piece(number, slice(total, total + member.width)))
            total += member.width
        shares.append(_Share(kernel_size, total, tuple(pieces)))
    return tuple(shares)


def _count(member: Member) -> int:
    return 7 if member.squeeze else 3


def _split(rows: Tensor, share: _Share) -> Sequence[Tensor]:
    """Return the columns of each piece; a share of one piece is that piece."""
    return [rows] if len(share.pieces) == 1 else [rows[:, here] for _, here in share.pieces]


def _rows(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).view(-1, x.shape[1])


def _as_map(rows: Tensor, batch: int, height: int, width: int) -> Tensor:
    return rows.view(batch, height, width, -1).permute(0, 3, 1, 2)


def _norm(x: Tensor) -> tuple[Tensor, Tensor]:
    normalised, _, inverse = torch.native_batch_norm(x, None, None, None, None, True, 0.0, EPSILON)
    return normalised, inverse

"""A candidate op in a supernet: weights at the greatest width in a store, and the slice in use as the trained parameters."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from dcnas_nets.depthwise import depthwise_conv2d
from dcnas_nets.mid_channels import Member, run_candidates, runs_written_out
from dcnas_nets.pointwise import pointwise_conv2d
from dcnas_nets.pooling import mean_of_pixels
from dcnas_nets.search_norm import batch_norm, norm_act
from dcnas_schema.space import OPS, OpName, Place, se_channels, width_bounds

_WIDTH_AXIS: dict[str, int | None] = {
    "expand": 0,
    "depthwise": 0,
    "project": 1,
    "se_reduce": 1,
    "se_reduce_bias": None,
    "se_expand": 0,
    "se_expand_bias": 0,
}
"""The axis of each weight that runs over the mid channels; the squeeze's own bias has none."""


class Candidate(nn.Module):
    """
    One op at one place.

    The store holds the weights of all mid channels. `take` copies those in use back into it and takes others out: what runs are real
    slices, never masked full-width work.

    Source: TF-NAS (arXiv:2008.05314), elasticity-scaling.
    """

    expand: nn.Parameter
    depthwise: nn.Parameter
    project: nn.Parameter
    se_reduce: nn.Parameter
    se_reduce_bias: nn.Parameter
    se_expand: nn.Parameter
    se_expand_bias: nn.Parameter
    active: Tensor
    """Mid channels in use, rising, int64."""

    def __init__(self, place: Place, op: OpName, width: int) -> None:
        super().__init__()
        self.place, self.op = place, op
        self.kernel_size = OPS[op].kernel_size
        self.squeeze = se_channels(place.in_channels, OPS[op])
        self.most = width_bounds(place.in_channels, OPS[op])[1]
        self.residual = place.stride == 1 and place.in_channels == place.out_channels
        self._names: list[str] = []
        for name, weight in _initial_weights(place, self.most, self.kernel_size, self.squeeze).items():
            self._names.append(name)
            self.register_buffer(f"store_{name}", weight)
        self.register_buffer("active", torch.arange(width))
        self._take_out()

    @property
    def width(self) -> int:
        """Mid channels in use."""
        return len(self.active)

    def store(self, name: str) -> Tensor:
        """Return the weight `name` at full width."""
        weight: Tensor = getattr(self, f"store_{name}")
        return weight

    def member(self) -> Member:
        """Return what `run_candidates` asks of it."""
        return Member(self.width, self.kernel_size, bool(self.squeeze))

    def in_use(self) -> list[nn.Parameter]:
        """Return the weights in use, in the order of `run_candidates`."""
        return [getattr(self, name) for name in self._names]

    def put_back(self) -> None:
        """Copy the weights in use into the store."""
        for name in self._names:
            axis, weight = _WIDTH_AXIS[name], getattr(self, name).detach()
            if axis is None:
                self.store(name).copy_(weight)
            else:
                self.store(name).index_copy_(axis, self.active, weight)

    def take(self, active: Int[Tensor, " mid"]) -> None:
        """Put the weights in use back and take out those of the channels `active`, rising; the parameters are new ones after this."""
        self.put_back()
        self.active = active
        self._take_out()

    def strongest(self, width: int) -> Int[Tensor, " mid"]:
        """Return the `width` mid channels of the greatest L1 norm of their depthwise kernels in the store, those switched off included."""
        self.put_back()
        norms = self.store("depthwise").abs().sum((1, 2, 3))
        return torch.sort(norms, descending=True, stable=True).indices[:width].sort().values

    def to_save(self) -> dict[str, Tensor]:
        """Return store and channels in use; the weights in use have been put back."""
        self.put_back()
        return {"active": self.active, **{name: self.store(name) for name in self._names}}

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take up what `to_save` gave; a missing part is a `KeyError`."""
        for name in self._names:
            self.store(name).copy_(saved[name])
        self.active = saved["active"].to(self.active.device)
        self._take_out()

    def forward(self, x_BCHW: Float[Tensor, "batch ch height width"]) -> Float[Tensor, "batch out h2 w2"]:
        """Return the op's output, residual included: what a sampled path runs."""
        if runs_written_out(x_BCHW, self.expand):
            return run_candidates(x_BCHW, self.place, [self.member()], [self.in_use()])
        features = batch_norm(self.before_norm(x_BCHW))
        return features.add_(x_BCHW) if self.residual else features

    def before_norm(self, x_BCHW: Float[Tensor, "batch ch height width"]) -> Float[Tensor, "batch out h2 w2"]:
        """Return the projection, to which the last batch norm and the residual are still to come."""
        place = self.place
        features = norm_act(pointwise_conv2d(x_BCHW, self.expand), place.activation)
        features = depthwise_conv2d(features, self.depthwise, stride=place.stride, padding=self.kernel_size // 2)
        return self.after_depthwise(norm_act(features, place.activation))

    def after_depthwise(self, x_BCHW: Float[Tensor, "batch mid h2 w2"]) -> Float[Tensor, "batch out h2 w2"]:
        """Squeeze and excite where the op does, and project."""
        if self.squeeze:
            means = mean_of_pixels(x_BCHW)[:, :, None, None]
            squeezed = pointwise_conv2d(means, self.se_reduce, self.se_reduce_bias)
            squeezed = F.relu(squeezed) if self.place.activation == "relu" else F.silu(squeezed)
            x_BCHW = x_BCHW * torch.sigmoid(pointwise_conv2d(squeezed, self.se_expand, self.se_expand_bias))
        return pointwise_conv2d(x_BCHW, self.project)

    def _take_out(self) -> None:
        for name in self._names:
            axis, store = _WIDTH_AXIS[name], self.store(name)
            weight = store.clone() if axis is None else store.index_select(axis, self.active)
            setattr(self, name, nn.Parameter(weight))


def _initial_weights(place: Place, most: int, kernel_size: int, squeeze: int) -> dict[str, Tensor]:
    """Return weights of all `most` channels as PyTorch draws them, biases of zero; they come from the global generator."""
    weights = {
        "expand": nn.Conv2d(place.in_channels, most, 1).weight,
        "depthwise": nn.Conv2d(most, most, kernel_size, groups=most).weight,
        "project": nn.Conv2d(most, place.out_channels, 1).weight,
    }
    if squeeze:
        weights["se_reduce"] = nn.Conv2d(most, squeeze, 1).weight
        weights["se_reduce_bias"] = torch.zeros(squeeze)
        weights["se_expand"] = nn.Conv2d(squeeze, most, 1).weight
        weights["se_expand_bias"] = torch.zeros(most)
    return {name: weight.detach().clone() for name, weight in weights.items()}

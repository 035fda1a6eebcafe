"""The mixed op of one place: one candidate alone, or all of them weighted, in the form that suits the device."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dcnas_nets.candidates import Candidate
from dcnas_nets.mid_channels import run_candidates, runs_written_out
from dcnas_nets.search_norm import batch_norm, norm_act
from dcnas_schema.space import OpName, Place

Form = Literal["plain", "fused"]
"""
How all candidates of a place run at once; both give the same numbers.

`plain` runs one after another, or, in full precision on a CPU, as `mid_channels` has it. `fused` runs those of one kernel size as one: one
expansion, one batch norm, one depthwise convolution and one more for all of them, and one batch norm over all projections, so that a GPU,
whose step is bound by launches, gets fewer and larger kernels.
"""


class MixedBlock(nn.Module):
    """
    The candidates of one place.

    Args:
        widths: Mid channels of each candidate at the start: its first ones.

        form: See `Form`.
    """

    _order: Tensor

    def __init__(self, place: Place, ops: Sequence[OpName], widths: Sequence[int], form: Form) -> None:
        super().__init__()
        self.place, self.form = place, form
        self.residual = place.stride == 1 and place.in_channels == place.out_channels
        self.candidates = nn.ModuleList(Candidate(place, op, width) for op, width in zip(ops, widths, strict=True))
        kernels = [candidate.kernel_size for candidate in self.of()]
        self._groups = [
            [index for index, kernel in enumerate(kernels) if kernel == size] for size in sorted(set(kernels))
        ]
        order = torch.tensor([index for group in self._groups for index in group])
        self.register_buffer("_order", order, persistent=False)

    def of(self) -> list[Candidate]:
        """Return the candidates, typed."""
        return [candidate for candidate in self.candidates if isinstance(candidate, Candidate)]

    def one(self, x_BCHW: Float[Tensor, "batch ch height width"], op: int) -> Float[Tensor, "batch out h2 w2"]:
        """Return the output of the candidate of that number."""
        output: Tensor = self.candidates[op](x_BCHW)
        return output

    def all(
        self, x_BCHW: Float[Tensor, "batch ch height width"], weights: Float[Tensor, " op"], *, trains: bool = True
    ) -> Float[Tensor, "batch out h2 w2"]:
        """
        Return the sum of all candidates' outputs, each times its weight.

        Args:
            weights: Must sum to 1, as a softmax does: the input of a residual block is added once, unweighted.

            trains: Whether a gradient of the candidates' weights may be asked for.
        """
        if self.form == "plain" and runs_written_out(x_BCHW, self.of()[0].expand):
            return self._written_out(x_BCHW, weights, trains=trains)
        features = self._fused(x_BCHW, weights) if self.form == "fused" else self._plain(x_BCHW, weights)
        return features.add_(x_BCHW) if self.residual else features

    def _written_out(self, x: Tensor, weights: Tensor, *, trains: bool) -> Tensor:
        candidates = self.of()
        parameters = [[w if trains else w.detach() for w in candidate.in_use()] for candidate in candidates]
        return run_candidates(x, self.place, [candidate.member() for candidate in candidates], parameters, weights)

    def _plain(self, x: Tensor, weights: Tensor) -> Tensor:
        scales = weights.unsqueeze(1).expand(-1, self.place.out_channels).contiguous()
        candidates = self.of()
        total = batch_norm(candidates[0].before_norm(x), scales[0])
        for candidate, scale in zip(candidates[1:], scales[1:], strict=True):
            total.add_(batch_norm(candidate.before_norm(x), scale))
        return total

    def _fused(self, x: Tensor, weights: Tensor) -> Tensor:
        candidates, projected = self.of(), []
        for group in self._groups:
            members = [candidates[index] for index in group]
            for member, features in zip(members, self._through_depthwise(x, members), strict=True):
                projected.append(member.after_depthwise(features))
        out = self.place.out_channels
        scales = weights.index_select(0, self._order).unsqueeze(1).expand(-1, out).flatten()
        features = batch_norm(torch.cat(projected, dim=1), scales)
        return torch.unflatten(features, 1, (len(projected), out)).sum(1)

    def _through_depthwise(self, x: Tensor, members: Sequence[Candidate]) -> Sequence[Tensor]:
        """Return the depthwise features of candidates of one kernel size, one map each."""
        place, kernel_size = self.place, members[0].kernel_size
        expand = torch.cat([member.expand for member in members])
        depthwise = torch.cat([member.depthwise for member in members])
        features = norm_act(F.conv2d(x, expand), place.activation)
        features = F.conv2d(features, depthwise, stride=place.stride, padding=kernel_size // 2, groups=len(depthwise))
        return torch.split(norm_act(features, place.activation), [member.width for member in members], dim=1)

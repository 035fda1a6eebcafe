"""
The published search step as its paper and README describe it, plainly: one module a candidate, contiguous tensors, fp32, torch's own
optimisers, a sampler that asks the device which op won (`item()`), latencies looked up op by op.

Written for the benchmark after TF-NAS (Hu et al. 2020, arXiv:2008.05314); it computes what our supernet computes, on the same weights.
"""

import copy
import random
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax, softmax

from dcnas_nets.candidates import Candidate
from dcnas_nets.supernet import Supernet
from dcnas_schema.space import OPS, PLACES, OpName, Place


class PlainOp(nn.Module):
    def __init__(self, place: Place, op: OpName, candidate: Candidate) -> None:
        super().__init__()
        mid, kernel, squeeze = candidate.width, OPS[op].kernel_size, candidate.squeeze
        self.expand = nn.Sequential(nn.Conv2d(place.in_channels, mid, 1, bias=False), _norm(mid), _act(place))
        depthwise = nn.Conv2d(mid, mid, kernel, place.stride, kernel // 2, groups=mid, bias=False)
        self.depthwise = nn.Sequential(depthwise, _norm(mid), _act(place))
        self.squeeze = (
            nn.Sequential(
                nn.AdaptiveAvgPool2d(1),
                nn.Conv2d(mid, squeeze, 1),
                _act(place),
                nn.Conv2d(squeeze, mid, 1),
                nn.Sigmoid(),
            )
            if squeeze
            else None
        )
        self.project = nn.Sequential(nn.Conv2d(mid, place.out_channels, 1, bias=False), _norm(place.out_channels))
        self.residual = place.stride == 1 and place.in_channels == place.out_channels
        self.width = mid
        own = [layer.weight for layer in (self.expand[0], self.depthwise[0], self.project[0])]
        theirs = [candidate.expand, candidate.depthwise, candidate.project]
        if self.squeeze is not None:
            own += [self.squeeze[1].weight, self.squeeze[1].bias, self.squeeze[3].weight, self.squeeze[3].bias]
            theirs += [candidate.se_reduce, candidate.se_reduce_bias, candidate.se_expand, candidate.se_expand_bias]
        with torch.no_grad():
            for to, source in zip(own, theirs, strict=True):
                to.copy_(source)

    def forward(self, x: Tensor) -> Tensor:
        features = self.depthwise(self.expand(x))
        if self.squeeze is not None:
            features = features * self.squeeze(features)
        features = self.project(features)
        return features + x if self.residual else features


class PlainBlock(nn.Module):
    def __init__(self, number: int, place: Place, net: Supernet, table: Mapping[str, float]) -> None:
        super().__init__()
        ops = zip(net.ops, net.at(number).of(), strict=True)
        self.ops = nn.ModuleList(PlainOp(place, op, candidate) for op, candidate in ops)
        self.log_alphas = nn.Parameter(log_softmax(torch.zeros(len(self.ops)), dim=0))
        self.number, self.table = number, table
        self.active = [False] * len(self.ops)

    def sampled(self, x: Tensor, *, second: bool) -> Tensor:
        if second:
            choice = random.choice([index for index, used in enumerate(self.active) if not used])
            self.active = [False] * len(self.ops)
        else:
            noise = -torch.empty_like(self.log_alphas).exponential_().log()
            choice = int((self.log_alphas + noise).argmax().item())
            self.active[choice] = True
        output: Tensor = self.ops[choice](x)
        return output

    def mixed(self, x: Tensor, heat: float) -> tuple[Tensor, Tensor]:
        noise = -torch.empty_like(self.log_alphas).exponential_().log()
        weights = softmax((self.log_alphas + noise) / heat, dim=0)
        output = sum(weight * op(x) for weight, op in zip(weights, self.ops, strict=True))
        latency = sum(
            weight * self.table[table_key(self.number, index, op.width)]
            for index, (weight, op) in enumerate(zip(weights, self.ops, strict=True))
            if isinstance(op, PlainOp)
        )
        assert isinstance(output, Tensor)
        assert isinstance(latency, Tensor)
        return output, latency


class PlainSearch:
    """A supernet in the published form, on the weights of `net`, with its two steps."""

    def __init__(self, net: Supernet, table: Mapping[str, float], *, rate: float, target_ms: float) -> None:
        self.stem, self.tail = _copied(net.stem), _copied(net.tail)
        self.blocks = [PlainBlock(number, place, net, table) for number, place in enumerate(PLACES)]
        self.alphas = [block.log_alphas for block in self.blocks]
        whole = nn.ModuleList([self.stem, *self.blocks, self.tail])
        self.weights = [value for name, value in whole.named_parameters() if not name.endswith("log_alphas")]
        self.sgd = torch.optim.SGD(self.weights, lr=rate, momentum=0.9, weight_decay=1e-5)
        self.adam = torch.optim.Adam(self.alphas, lr=0.01, betas=(0.5, 0.999), weight_decay=5e-4)
        self.target_ms = target_ms

    def weight_step(self, image: Tensor, labels: Tensor) -> float:
        for alphas in self.alphas:
            alphas.requires_grad = False
        self.sgd.zero_grad()
        loss = sum(cross_entropy(self._sampled(image, second=second), labels) for second in (False, True))
        assert isinstance(loss, Tensor)
        loss.backward()  # type: ignore[no-untyped-call] # torch ships backward without annotations
        nn.utils.clip_grad_norm_(self.weights, 5.0)
        self.sgd.step()
        for alphas in self.alphas:
            alphas.requires_grad = True
        return loss.item()

    def architecture_step(self, image: Tensor, labels: Tensor, heat: float) -> float:
        for weight in self.weights:
            weight.requires_grad = False
        self.adam.zero_grad()
        logits, latency = self.mixed(image, heat)
        loss = cross_entropy(logits, labels) + 0.1 * (latency / self.target_ms - 1).abs()
        loss.backward()  # type: ignore[no-untyped-call] # torch ships backward without annotations
        nn.utils.clip_grad_norm_(self.alphas, 5.0)
        self.adam.step()
        for alphas in self.alphas:
            alphas.data = log_softmax(alphas.detach(), dim=0)
        for weight in self.weights:
            weight.requires_grad = True
        return loss.item()

    def mixed(self, image: Tensor, heat: float) -> tuple[Tensor, Tensor]:
        x, latency = _through(self.stem, image), torch.zeros(())
        for block in self.blocks:
            x, more = block.mixed(x, heat)
            latency = latency + more
        return _through(self.tail, x), latency

    def _sampled(self, image: Tensor, *, second: bool) -> Tensor:
        x = _through(self.stem, image)
        for block in self.blocks:
            x = block.sampled(x, second=second)
        return _through(self.tail, x)


def table_key(place: int, op: int, width: int) -> str:
    """Return a text key, as the published table has."""
    return f"place{place}_op{op}_mid{width}"


def _through(parts: nn.Module, x: Tensor) -> Tensor:
    for part in parts.children():
        x = part(x)
    return x


def _copied(parts: nn.Module) -> nn.Module:
    return copy.deepcopy(parts).to(memory_format=torch.contiguous_format)


def _norm(channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels, affine=False, track_running_stats=False)


def _act(place: Place) -> nn.Module:
    return nn.ReLU(inplace=True) if place.activation == "relu" else nn.SiLU(inplace=True)

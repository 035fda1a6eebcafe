"""The end of a search: a derived net that is above its target at its least widths takes cheaper ops, and what fails is recorded."""

from dataclasses import dataclass

from dcnas_schema.search_log import ROUNDING
from dcnas_search_supernet.loop import Search
from dcnas_training.architecture import chosen_depths, chosen_ops, kept_places, scale_to_target
from dcnas_training.elasticity import Switching, elastic_bounds, switch_ops


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """Which net a search ends with."""

    choices: tuple[int, ...] | None
    """Number of the op at each place, where some are cheaper than the most likely; `None` where those are taken."""
    widths: tuple[tuple[int, ...], ...]
    """Place x op."""
    met: bool
    """The net is predicted not to be above the target."""
    switched: int
    """Places whose op is not the most likely one."""


def meet_target(run: Search) -> Ending:
    """
    Return what the search ends with, the net left as it is.

    Elasticity-scaling follows the target by widths alone, which are bounded. Where the most likely ops are above the target at their least
    widths, places take cheaper ops until the net is not, and widths grow again into what is left.
    """
    architecture, ops, net, multiple = run.architecture, run.spec.candidates, run.latency, run.spec.width_multiple
    log_alphas = architecture.log_alphas.detach().cpu()
    likely = chosen_ops(log_alphas)
    depths = chosen_depths([log_beta.detach().cpu() for log_beta in architecture.log_betas])
    widths = [list(row) for row in run.net.widths()]
    blocks = {p: (likely[p], widths[p][likely[p]]) for p in kept_places(depths) if p in net.places()}
    total = net.total([(place, ops[op], width) for place, (op, width) in blocks.items()])
    limit = run.target_ms * (1 + ROUNDING)
    if total <= limit:
        return Ending(choices=None, widths=_fixed(widths), met=True, switched=0)
    switching = Switching(
        log_alphas=log_alphas.double().tolist(),
        block_ms=lambda place, op, width: net.block_ms(place, ops[op], width),
        least=lambda place, op: elastic_bounds(place, ops[op], width_multiple=multiple)[0],
    )
    found, reached = switch_ops(switching, blocks, total, target_ms=run.target_ms)
    choices = [found[place][0] if place in found else op for place, op in enumerate(likely)]
    for place, (op, width) in found.items():
        widths[place][op] = width
    if met := reached <= limit:
        grown = scale_to_target(net, ops, choices, depths, widths, target_ms=run.target_ms, width_multiple=multiple)
        for place, (op, width) in grown.items():
            widths[place][op] = width
    switched = sum(a != b for a, b in zip(choices, likely, strict=True))
    return Ending(choices=tuple(choices), widths=_fixed(widths), met=met, switched=switched)


def _fixed(widths: list[list[int]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(row) for row in widths)

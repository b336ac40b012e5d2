"""One road for every number: metrics see a source block by block, and give the sums of their quantities."""

from collections.abc import Callable
from typing import Protocol

from simgap.metrics.routing import dropped_tokens
from simgap.quantities import SITES, Quantity
from simgap.selection import by_metric, needs_of
from simgap.sources import TOKEN_BLOCK, Block, Source, Work
from simgap.sums import GroupSums, Values


class Keeper(Protocol):
    """What keeps of the blocks that are measured, and needs these sites in them."""

    @property
    def sites(self) -> tuple[str, ...]: ...
    def add(self, block: Block) -> None: ...


def observe(
    source: Source,
    quantities: tuple[Quantity, ...],
    work: Work,
    block_tokens: int = TOKEN_BLOCK,
    progress: Callable[[float], object] | None = None,
    keeper: Keeper | None = None,
) -> GroupSums:
    """The sums of these quantities over the trials of a source, and what its router did.

    keeper: is shown every block too, with the vectors at its sites. progress is told of the shares of a trial that are done: one for each
    block of tokens, one for the rest. Raises ValueError naming the trial for vectors that are not finite.
    """
    needs = needs_of(source.spec, quantities)
    states = [metric.start(source, part, work) for metric, part in by_metric(quantities)]
    sites = tuple(site for site in SITES if site in (*needs.sites, *(keeper.sites if keeper else ())))
    looks = bool(sites or needs.routing)
    share = 0.0 if progress is None else 1 / (1 + (-(-source.tokens // block_tokens) if looks else 0))
    for block in source.blocks(sites, needs.every, work.task_map, block_tokens) if looks else ():
        for state in states:
            state.add(block)
        if keeper is not None:
            keeper.add(block)
        # The next block is computed without this one in memory.
        del block
        if progress is not None:
            progress(share)
    values: dict[Quantity, Values] = {}
    for state in states:
        values |= state.finish()
    if progress is not None:
        progress(share)
    return GroupSums(values, source.taken, dropped_tokens(source.indices))

"""The second null of a user's own vectors on tokens: the same pairs of experts on other tokens."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from simgap.api.as_tensor import as_labels
from simgap.api.overlap import BLIND, Overlap, SecondNull, promoted, too_few_draws
from simgap.api.pair_table import FEWEST_PAIRS, MOST_PAIRS, PairTable, median
from simgap.nulls.other_token import Labels, elsewhere, judged, of_gains, sizes_do_more
from simgap.overlaps import OtherTokens, Sketches, TokenPairs, lengths_at, other_tokens
from simgap.overlaps.memory import tokens_at
from simgap.overlaps.rectified import some_columns
from simgap.seeding import stream
from simgap.stats import LEVEL
from simgap.theory.other_tokens import ID, least_p
from simgap.threads import Map

# The level of the second null. Eight experts, all pairs of which gain alike, have p 0.005, and no law that asks nothing of experts can give
# them less.
SECOND_LEVEL = 1e-2
UNSEEN = "a residual or shared expert in the vectors"
# Of at most 1: beyond it independent experts look much like copies, and near copies like independent experts.
MOST_SEEN = 0.5
HIDDEN = "few directions are nearly all of these vectors, and what is alike behind them is hardly seen: sg.explain whitens them"
# Tokens that are looked at for what would mislead; so many that repeat others are a doubt; how much larger than the median one is massive.
LOOKED_AT, REPEATED, MASSIVE = 4096, 0.01, 10.0
# Of a length in float64, which the order of its sum changes in the last few bits.
ROUNDED_BITS = 16
# Of one degree of freedom; and steps towards the spread of experts, to a few thousandths of it.
CHI_SQUARE_MEDIAN, HALVINGS = 0.4549, 20


@dataclass(frozen=True)
class OnTokens:
    """What other tokens say of an overlap. second: None where they say nothing, and why. table: of every pair of experts that has any.
    unequal: tokens of unequal size add more than is left when other tokens are of like size. documents: whether they were given."""

    second: SecondNull | None
    why: str = ""
    table: PairTable | None = None
    unequal: bool = False
    documents: bool = False


def labels_of(documents: Any, strata: Any, shape: tuple[int, ...]) -> Labels:
    """shape: of the axes that number the tokens. Raises ValueError for labels of another, and for what is neither whole nor boolean."""

    def numbers(name: str, given: Any) -> Int[np.ndarray, " n"] | None:
        if given is None:
            return None
        labels = as_labels(name, given)
        if tuple(labels.shape) != shape:
            raise ValueError(f"{name}: expected {shape} whole numbers, one to a token, got shape {tuple(labels.shape)}")
        return np.unique(labels.numpy().reshape(-1), return_inverse=True)[1].reshape(-1).astype(np.int64)

    return Labels(numbers("documents", documents), numbers("strata", strata))


def on_other_tokens(
    vectors: Float[Tensor, "*tokens k width"],
    experts: Int[np.ndarray, "n k"],
    numbers: Int[np.ndarray, " E"],
    exists: Bool[np.ndarray, "n k"],
    labels: Labels,
    known: tuple[Float[np.ndarray, "n k"] | None, Sketches],
    task_map: Map,
) -> OnTokens:
    """Law T3 of vectors whose experts are numbered anew from 0; numbers: their own. known: the lengths of the vectors, or None, and the
    sketches of their pairs."""
    lengths, sketches = known
    looked = elsewhere(vectors, experts, exists, len(numbers), labels, task_map, lengths)
    if isinstance(looked, str):
        return OnTokens(None, looked)
    found = looked.found
    table = _table(found, sketches, looked.pairs, numbers) if len(found.count) <= MOST_PAIRS else None
    null = of_gains(found, labels)
    if null.mean is None or null.sd is None:
        return OnTokens(None, null.why, table)
    gain, z, p = judged(found, null)
    unequal = False
    if p <= SECOND_LEVEL:
        plain = other_tokens(vectors, looked.pairs, labels.documents, None, labels.strata, task_map, lengths)
        unequal = sizes_do_more(found, plain)
    excess = (null.mean + gain) / null.mean if null.mean else 1.0
    doubt = doubts(vectors, exists, task_map, lengths)
    second = SecondNull("other_token", null.mean, null.sd, excess, z, p, null.supposes, UNSEEN, ID, 0, doubt)
    return OnTokens(second, "", table, unequal, labels.documents is not None)


def verdict_of_tokens(overlap: Overlap, found: OnTokens, elsewhere: float | None) -> str:
    """What signs and other tokens ask for. elsewhere: the overlap on different tokens, over what signs would make of it."""
    if too_few := too_few_draws(overlap.p, overlap.draws):
        return too_few
    p, excess, second = overlap.p, overlap.excess, found.second
    named = standing_out_in_words(found.table)
    if p > LEVEL:
        alone = f", by signs alone: {found.why}" if second is None else ""
        nothing = f"nothing to explain{' in the mean' if named else ''} at the level {LEVEL:g}{alone}"
        nothing += f", but {named} stand out from all pairs: .top() lists them" if named else ""
        return nothing + (f"; {HIDDEN}" if overlap.null > MOST_SEEN else "")
    if second is None:
        alone = f"cannot tell experts that are alike from {BLIND['tokens']}: {found.why}"
        return f"{alone}; {named} stand out" if named else alone
    both = f"{excess:.3g} times the null on a token, {elsewhere or math.inf:.3g} times on different tokens"
    if second.p <= SECOND_LEVEL:
        return _beyond_other_tokens(found, named, f" ({both})")
    if named:
        return f"more than a shared space gives in few pairs: {named} stand out from all pairs ({both}); .top() lists them"
    floor = least_p(len(np.unique(found.table.named))) if found.table is not None else 0.0
    few_experts = f"; so few experts give no p below {floor:.1g}" if floor > SECOND_LEVEL else ""
    remedy = f"pass vectors without what experts share, and more experts or tokens{few_experts}"
    return f"cannot tell: {BLIND['tokens']} explain as much ({both}); {remedy}"


def by_other_tokens(overlap: Overlap, found: OnTokens) -> Overlap:
    """An overlap beside other tokens and nothing else. ValueError where they say nothing."""
    if found.second is None:
        raise ValueError(f"null: 'other_token' is not to be had of these arrays: {found.why}")
    named = standing_out_in_words(found.table)
    said = f"nothing to explain{' in the mean' if named else ''} at the level {SECOND_LEVEL:g}"
    if found.second.p <= SECOND_LEVEL:
        said = _beyond_other_tokens(found, named)
    elif named:
        said += f", but {named} stand out from all pairs: .top() lists them"
    return promoted(overlap, found.second, said)


def _beyond_other_tokens(found: OnTokens, named: str, both: str = "") -> str:
    """What is said of more than other tokens give. named: the pairs that stand out."""
    if found.unequal:
        return f"cannot tell: a common bias with tokens of unequal size explains as much{both}; pass strata=, classes of tokens of one size"
    tokens = "" if found.documents else "; tokens count as independent: pass documents= where they are not"
    alike = "" if found.table is None or found.table.judged.sum() < FEWEST_PAIRS else ", and no pair stands out"
    where = f", most of all {named}" if named else alike
    return f"more than a shared space, bias or W_down gives{both}{where}; {UNSEEN} would do this too{tokens}"


def standing_out_in_words(table: PairTable | None) -> str:
    """The pair of experts that stands out most, and how many others do; nothing where none does."""
    few = [] if table is None else table.standing_out(SECOND_LEVEL)
    others = f" and {len(few) - 1} other pair{'s' if few[2:] else ''}" if few[1:] else ""
    return f"experts {few[0][0]} and {few[0][1]}{others}" if few else ""


def _table(found: OtherTokens, sketches: Sketches, pairs: TokenPairs, numbers: Int[np.ndarray, " E"]) -> PairTable:
    signs = np.full((3, len(found.count)), math.nan)
    if sketches.groups == found.experts and pairs.met is not None:
        # Each pair of experts has a sketch of its own, of all tokens on which it meets.
        met = pairs.met[tuple(found.named.T)]
        whole = met == found.count
        mean, variance, third = sketches.of_pairs(found.named)[:, whole]
        skew = np.divide(third, variance**1.5, out=np.zeros(len(third)), where=variance > 0)
        signs[:, whole] = mean / met[whole], variance / met[whole].astype(float) ** 2, skew
    return table_of(found, numbers, signs)


def table_of(found: OtherTokens, numbers: Int[np.ndarray, " E"], signs: Float[np.ndarray, "3 P"] | None = None) -> PairTable:
    """Every pair of experts that has other tokens; numbers: the experts' own. signs: of `PairTable`, not known where they are None."""
    unknown = np.full((3, len(found.count)), math.nan)
    named, spread = numbers[found.named], _spread(found)
    return PairTable(named, found.count, found.same, found.other, spread, found.error, unknown if signs is None else signs)


def _spread(found: OtherTokens) -> Float[np.ndarray, " P"]:
    """How far the gain of each pair strays by chance: that of two experts, which no tokens make smaller, and that of their tokens."""
    # One error of a token to all, since few tokens do not know their own.
    of_tokens = median(found.error**2 * found.count) / found.count
    apart = (found.gains - median(found.gains)) ** 2
    least, most = 0.0, float(apart.max(initial=0.0)) / CHI_SQUARE_MEDIAN
    # The more experts stray, the smaller is the median of the standardised squares: halved until it is a chi-square's.
    for _ in range(HALVINGS):
        middle = (least + most) / 2
        total = middle + of_tokens
        larger = median(np.divide(apart, total, out=np.zeros(len(apart)), where=total > 0)) > CHI_SQUARE_MEDIAN
        least, most = (middle, most) if larger else (least, middle)
    return np.sqrt(least + of_tokens)


def doubts(
    vectors: Float[Tensor, "*tokens k width"],
    exists: Bool[np.ndarray, "n k"],
    task_map: Map,
    lengths: Float[np.ndarray, "n k"] | None = None,
) -> str:
    """What of some evenly spaced tokens makes other tokens misleading: they repeat each other, or a few are massive. lengths: of the
    vectors that exist, where they are known."""
    there = np.flatnonzero(exists.any(1))
    some = there[np.arange(LOOKED_AT) * (len(there) - 1) // (LOOKED_AT - 1)] if len(there) > LOOKED_AT else there
    sizes = (lengths_at(vectors, some, exists, task_map) if lengths is None else lengths)[some]
    doubts = []
    repeated = _repeated(vectors, some, exists[some].argmax(1), sizes)
    if repeated > REPEATED:
        doubts.append(f"{repeated:.0%} of the tokens repeat others: leave them out with mask=, or pass documents=")
    of_tokens = np.fmax.reduce(sizes, 1, initial=0.0)
    massive = float((of_tokens > MASSIVE * np.median(of_tokens)).mean())
    if massive:
        doubts.append(
            f"{massive:.1%} of the tokens are more than {MASSIVE:g} times the median in size: leave them out with mask=, or pass strata="
        )
    return "; ".join(doubts)


def _repeated(vectors: Tensor, tokens: Int[np.ndarray, " m"], slots: Int[np.ndarray, " m"], sizes: Float[np.ndarray, "m k"]) -> float:
    """The share of the tokens whose vector in some slot, in some of its columns, is that of another one before them. Zeros are no vectors,
    and equal."""
    own = sizes[np.arange(len(tokens)), slots]
    nonzero = np.flatnonzero(own)
    # Equal vectors have equal lengths, up to the order of a sum, so that few are read.
    _, kinds, counts = np.unique(own[nonzero].view(np.int64) >> ROUNDED_BITS, return_inverse=True, return_counts=True)
    alike = nonzero[counts[kinds] > 1]
    if not len(alike):
        return 0.0
    seen = tokens_at(vectors, tokens[alike])
    own_rows = seen[torch.arange(len(alike), device=seen.device), torch.from_numpy(slots[alike]).to(seen.device)]
    rows = np.ascontiguousarray(some_columns(own_rows).float().cpu().numpy())
    return (len(alike) - len(np.unique(_digests(rows)))) / max(1, len(nonzero))


def _digests(rows: Float[np.ndarray, "n c"]) -> Int[np.ndarray, " n"]:
    """A number of each row that equal rows share, and others by no chance worth counting."""
    odd = stream(0, "signs", expert=4).integers(0, 1 << 62, rows.shape[1], np.uint64) * np.uint64(2) + np.uint64(1)
    return (rows.astype(np.float32).view(np.uint32).astype(np.uint64) * odd).sum(1, dtype=np.uint64)

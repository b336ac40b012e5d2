"""Linear CKA of two experts' vectors on the tokens that both have: how alike is the geometry that they give the same tokens?

cka: <K, L> / (|K| |L|) of the doubly centred Gram matrices of the m tokens, in [0, 1] (Kornblith et al. 2019, arXiv 1905.00414). It is
biased upwards where m is not far above the widths. cka_debiased: the same of U-centred ones, whose products are unbiased (Song et al.
2012; Nguyen et al. 2021, arXiv 2010.15327), signed, around 0 for vectors that know nothing of each other. Reading "token": a pair on the
tokens that the router gave both; "all": every pair on the same tokens. At most 1,024 tokens a pair, those whose numbers have the lowest
hashes; of many experts fewer. O(m^2 width) a vector set and O(m^2) a pair. A pair of fewer than 4 tokens, or one side of which does not
vary, has none.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from jaxtyping import Float, Int

from simgap.quantities import ROUTED, SITES, Quantity
from simgap.sources import Block, Needs, Source, Work, missing_site
from simgap.specs import LayerSpec
from simgap.sums import Skipped, Values

# A debiased value is a ratio of numbers that may be small.
ORDER, DEFAULT, SIDES, RANGE = 5, False, (ROUTED,), (-float(1 << 40), float(1 << 40))
KINDS = ("cka", "cka_debiased")
QUANTITIES = tuple(Quantity(kind, reading, site) for kind in KINDS for reading in ("token", "all") for site in SITES)
missing = missing_site
MOST_TOKENS, LEAST_TOKENS = 1024, 4
# Numbers in the Gram matrices of all experts that are held together, of each kind.
GRAMS = 1 << 24


def needs(spec: LayerSpec, asked: tuple[Quantity, ...]) -> Needs:
    sites = tuple(site for site in SITES if any(quantity.site == site for quantity in asked))
    every = any(quantity.reading == "all" for quantity in asked)
    most = most_tokens(spec.n_experts)
    width = sum(spec.d_model if site == "output" else spec.d_ff for site in sites)
    kept = spec.n_experts * most * (width if every else width * min(spec.n_experts, 2 * spec.top_k))
    return Needs(sites, every, bytes=8 * kept + 16 * most * most * (spec.n_experts + 2))


def most_tokens(n_experts: int) -> int:
    """Tokens that a pair is compared on, at most."""
    return max(64, min(MOST_TOKENS, int((GRAMS / n_experts) ** 0.5)))


@dataclass(frozen=True)
class State:
    """wanted: of each reading, the tokens that the experts of each trial are looked at on. kept: their numbers and vectors, in pieces, by
    site, reading, trial and expert."""

    source: Source
    asked: tuple[Quantity, ...]
    wanted: dict[str, list[list[Int[np.ndarray, "_"]]]]
    kept: dict[tuple[str, str, int, int], list[tuple[np.ndarray, np.ndarray]]] = field(default_factory=dict)

    def add(self, block: Block) -> None:
        indices, first = block.indices.cpu().numpy(), block.first
        for site, reading in self._looked_at():
            rows = block.rows[site].cpu().numpy()
            table = (block.index if block.every is None or reading == "token" else block.every).cpu().numpy()
            for t, experts in enumerate(self.wanted[reading]):
                for e, tokens in enumerate(experts):
                    own = tokens[(tokens >= first) & (tokens < first + indices.shape[1])]
                    slot = np.full(len(own), e) if reading == "all" else (indices[t, own - first] == e).argmax(1)
                    vectors = rows[t, table[t, own - first, slot]].astype(np.float64)
                    if len(bad := np.flatnonzero(~np.isfinite(vectors).all(1))):
                        where = f"trial {self.source.trials[t]}: token {own[bad[0]]} expert {e}"
                        raise ValueError(f"{reading} {site} vectors that are not finite: {where}")
                    self.kept.setdefault((site, reading, t, e), []).append((own, vectors))

    def finish(self) -> dict[Quantity, Values]:
        values = {quantity: Values.empty(len(self.source.trials)) for quantity in self.asked}
        for site, reading in self._looked_at():
            for t, trial in enumerate(self.source.trials):
                for pair, both, tokens in self._pairs(site, reading, t):
                    for kind, value in zip(KINDS, both, strict=True):
                        if (quantity := Quantity(kind, reading, site)) in values:
                            _count(values[quantity], t, value, f"trial {trial} experts {pair}: {tokens} tokens")
        return values

    def _looked_at(self) -> list[tuple[str, str]]:
        return list(dict.fromkeys((quantity.site, quantity.reading) for quantity in self.asked))

    def _pairs(self, site: str, reading: str, t: int) -> Iterator[tuple[str, tuple[float, float], int]]:
        """Each pair of experts that share a token, both values, and the tokens."""
        experts = range(self.source.spec.n_experts)
        most = most_tokens(len(experts))
        pieces = [zip(*self.kept[site, reading, t, e], strict=True) for e in experts]
        sets = [tuple(map(np.concatenate, piece)) for piece in pieces]
        whole = [centred(vectors) for _, vectors in sets] if reading == "all" else None
        for i, j in combinations(experts, 2):
            shared, at_i, at_j = np.intersect1d(sets[i][0], sets[j][0], assume_unique=True, return_indices=True)
            chosen = np.argsort(order(shared), kind="stable")[:most]
            if not len(chosen):
                continue
            both = (whole[i], whole[j]) if whole else (centred(sets[i][1][at_i[chosen]]), centred(sets[j][1][at_j[chosen]]))
            yield f"{i} and {j}", alignment(*both), len(chosen)


def start(source: Source, asked: tuple[Quantity, ...], work: Work) -> State:
    readings = {quantity.reading for quantity in asked}
    most, wanted = most_tokens(source.spec.n_experts), {}
    if "all" in readings:
        tokens = lowest(source.tokens, most)
        wanted["all"] = [[tokens] * source.spec.n_experts for _ in source.trials]
    if "token" in readings:
        wanted["token"] = [_of_pairs(table, source.spec.n_experts, most) for table in source.indices.cpu().numpy()]
    return State(source, asked, wanted)


def _of_pairs(table: Int[np.ndarray, "n k"], n_experts: int, most: int) -> list[Int[np.ndarray, "_"]]:
    """The tokens of each expert that one of its pairs is compared on."""
    by_hash = np.argsort(order(np.arange(len(table))), kind="stable")
    own: list[set[int]] = [set() for _ in range(n_experts)]
    taken = [np.isin(table[by_hash], e).any(1) for e in range(n_experts)]
    for i, j in combinations(range(n_experts), 2):
        shared = by_hash[taken[i] & taken[j]][:most].tolist()
        own[i].update(shared)
        own[j].update(shared)
    return [np.array(sorted(tokens), np.int64) for tokens in own]


def order(tokens: Int[np.ndarray, " m"]) -> Int[np.ndarray, " m"]:
    """Hashes of tokens' numbers: which tokens are taken does not follow where they stand."""
    return (np.asarray(tokens, np.int64) * 0x9E3779B1 + 0x7F4A7C15) % (1 << 32) * 0x85EBCA6B % (1 << 32)


def lowest(count: int, most: int) -> Int[np.ndarray, " m"]:
    """Of the numbers from 0 to count, the `most` of the lowest hashes, ascending."""
    return np.sort(np.argsort(order(np.arange(count)), kind="stable")[:most])


def _count(values: Values, t: int, value: float, name: str) -> None:
    values.expected[t] += 1
    if np.isnan(value):
        values.skip(t, Skipped(1, (name,)))
    else:
        values.total[t] += value
        values.pairs[t] += 1


def centred(vectors: Float[np.ndarray, "m width"]) -> tuple[Float[np.ndarray, "m m"], Float[np.ndarray, "m m"]]:
    """The Gram matrix doubly centred, and U-centred: without its diagonal, each row's and column's sum taken out."""
    import torch

    from simgap.overlaps import gram

    m, largest = len(vectors), np.abs(vectors).max(initial=0.0)
    # Less their mean, so that little is lost where a common mean is large; one matrix at a time, the same bits on any number of threads.
    apart = vectors - vectors.mean(0)
    products = gram(torch.from_numpy(apart / (largest or 1.0))[None])[0].numpy()
    if m < LEAST_TOKENS:
        return products, products
    off = products - np.diag(products.diagonal())
    rows = off.sum(0) / (m - 2)
    unbiased = off - rows[:, None] - rows + off.sum() / ((m - 1) * (m - 2))
    np.fill_diagonal(unbiased, 0.0)
    return products, unbiased


def alignment(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> tuple[float, float]:
    """Cosines of the two centred matrices, and of the two U-centred ones; NaN where there is none."""
    if len(one[0]) < LEAST_TOKENS:
        return np.nan, np.nan
    return _cosine(one[0], other[0]), _cosine(one[1], other[1])


def _cosine(a: Float[np.ndarray, "m m"], b: Float[np.ndarray, "m m"]) -> float:
    # Not by a library's dot product, which sums in another order on more threads.
    sizes = float((a * a).sum()) * float((b * b).sum())
    return float((a * b).sum()) / sizes**0.5 if sizes > 0 else np.nan

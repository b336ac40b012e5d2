"""A user's own overlap beside what signs alone would make of it, and the words for it."""

import math
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from jaxtyping import Float
from numpy import ndarray

from simgap import notebook
from simgap.api.pair_table import MOST_PAIRS, PairTable
from simgap.stats import LEAST_P, LEVEL
from simgap.theory.sign_flips import upper_p

Kind = Literal["weights", "means", "tokens", "unnamed"]
NO_TABLE = "null='law' has one, of vectors on tokens with routing="
SPACE = "a space that experts share in another basis"
if TYPE_CHECKING:
    from pandas import DataFrame

# What would do the same as experts that are alike, without their being so.
BLIND: dict[Kind, str] = {
    "weights": f"{SPACE}, a common part or low rank",
    "means": f"{SPACE}, a common bias or W_down, a residual or shared expert in the vectors",
}
BLIND["tokens"] = BLIND["unnamed"] = BLIND["means"]


@dataclass(frozen=True)
class SecondNull:
    """Another null of the same overlap, that supposes something else; prints as what follows "the overlap is".

    name: of the null. null, null_sd, excess, z, p: as of `Overlap`. supposes: what is left to chance; unseen: what it cannot tell from
    chance; both in a few words. law: its number. draws: how many p is taken from, 0 for an approximation. doubt: why p is not to be relied
    on, "" where it is.
    """

    name: str
    null: float
    null_sd: float
    excess: float
    z: float
    p: float
    supposes: str
    unseen: str
    law: str
    draws: int = 0
    doubt: str = ""

    def __str__(self) -> str:
        doubt = f" ({self.doubt})" if self.doubt else ""
        return (
            f"{self.excess:.3g} times its null {self.null:.3g} {self.name} ({self.supposes}; it cannot see {self.unseen}), "
            f"z {self.z:.1f}, {p_in_words(self.p, self.draws)}{doubt}"
        )


def p_in_words(p: float, draws: int) -> str:
    if draws:
        return f"p {'<= ' if p <= 1 / (draws + 1) else ''}{p:.2g} by {draws} draws"
    return f"p < {LEAST_P:.0e}" if p <= LEAST_P else f"p {p:.2g}, approximately"


@dataclass(frozen=True)
class Overlap:
    """A mean squared overlap beside its null; prints as one sentence.

    mean: in [0, 1]. sem: standard error over pairs (weights, means) or over tokens, None where there is one. pairs: how many it rests on.
    null: what independent vectors with entries of these sizes overlap by if only their signs are left to chance, sum_i u_i^2 v_i^2 averaged
    over pairs (law T0). null_sd: how far such a mean strays from it. excess = mean / null. z = (mean - null) / null_sd, in standard
    deviations of the null. p: upper tail, from the null's first three cumulants (Pearson's type III, approximate; at least 1e-300), or (1 +
    #) / (draws + 1) where signs were drawn, # of them with at least this mean. dropped: vectors left out because they are zero or belong to
    an expert that no token reached; dropped_at names the first. round_null: 1/width, what a round space would give. draws: signs drawn for
    p, 0 for the approximation. elsewhere: the overlap of the same pairs of experts on *different* tokens over its null, where it was asked
    for. verdict: what follows, in words. beside: other nulls of the same overlap, where they were asked for, or where routing brings one.
    name, supposes: of the null, which may be another than signs where `null=` says so; null, null_sd, excess, z and p are then of that one.
    `by_pair` and `top` say which pairs of experts.
    """

    mean: float
    sem: float | None
    pairs: int
    null: float
    null_sd: float
    excess: float
    z: float
    p: float
    dropped: int = 0
    dropped_at: str = ""
    round_null: float = math.nan
    draws: int = 0
    elsewhere: float | None = None
    verdict: str = ""
    beside: tuple[SecondNull, ...] = ()
    name: str = "signs"
    supposes: str = "independent, sign-symmetric in this basis"
    table: PairTable | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        sem = "" if self.sem is None else f" ± {self.sem:.1g}"
        lost = f"; {self.dropped} undefined vectors left out ({self.dropped_at})" if self.dropped else ""
        others = "".join(f"; {other}" for other in self.beside)
        named = "" if self.name == "signs" else f" {self.name}"
        elsewhere = "" if self.name == "isotropic" else f"; {self.round_null:.3g} in a round space"
        return (
            f"overlap {self.mean:.4g}{sem} over {self.pairs} pairs is {self.excess:.3g} times its null {self.null:.3g}{named} "
            f"({self.supposes}{elsewhere}), z {self.z:.1f} sd of the null, "
            f"{p_in_words(self.p, self.draws)}{others}: {self.verdict}{lost}"
        )

    def _repr_html_(self) -> str:
        return notebook.text(self)

    def as_dict(self) -> dict[str, Any]:
        """Every field by its name, in plain Python values; the other nulls as a list of such."""
        plain = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "table"}
        return plain | {"beside": [asdict(other) for other in self.beside]}

    def by_pair(self) -> "DataFrame":
        """A pandas row to each pair of experts.

        Columns: expert, other, tokens, overlap, null (on different tokens, or of signs), excess, difference; its score among all pairs in
        robust standard deviations, that score's p, and p_adjusted for all pairs (Benjamini and Yekutieli); own_p of the overlap under
        signs; conditional_error of the difference over documents, for these very experts; of weights with `units`, renumbered_null and
        the pair's renumbered_p. NaN where a value is not known.

        Raises ValueError where there is no table: vectors on tokens without `routing`, or more than 524,288 pairs.
        """
        return self._table.frame()

    def top(self, n: int = 10) -> "DataFrame":
        """The n rows of `by_pair` with the highest scores."""
        return self._table.top(n)

    @property
    def _table(self) -> PairTable:
        if self.table is None:
            raise ValueError(f"pairs: no table of them: {'more than 524,288' if self.pairs > MOST_PAIRS else NO_TABLE}")
        return self.table


def promoted(overlap: Overlap, second: SecondNull, said: str) -> Overlap:
    """An overlap beside its second null alone."""
    values = {name: getattr(second, name) for name in ("null", "null_sd", "excess", "z", "p", "draws", "name", "supposes")}
    return replace(overlap, **values, verdict=said + (f" ({second.doubt})" if second.doubt else ""), beside=(), elsewhere=None)


@dataclass(frozen=True)
class SignNull:
    """Cumulants of a mean overlap under signs. drawn: such means, where they were asked for."""

    mean: float
    variance: float
    third: float
    drawn: Float[ndarray, " draws"] | None = None

    @classmethod
    def of_sum(cls, cumulants: tuple[float, float, float], pairs: int, factor: float, drawn: Float[ndarray, " draws"] | None) -> "SignNull":
        """From the cumulants of the sum over `pairs`, and drawn means; factor: what both come short by."""
        by = factor / pairs
        return cls(cumulants[0] * by, max(cumulants[1], 0.0) * by * by, cumulants[2] * by**3, None if drawn is None else drawn * factor)

    def p(self, value: float) -> float:
        if self.drawn is None:
            return max(upper_p(value, self.mean, self.variance, self.third), LEAST_P)
        # Equal up to round-off counts as equal.
        return (1 + int((self.drawn >= value * (1 - 1e-9)).sum())) / (len(self.drawn) + 1)

    def overlap(self, mean: float, sem: float | None, pairs: int, dimensions: int, dropped: int, dropped_at: str, **rest: Any) -> Overlap:
        """Beside a measured mean; rest: other fields."""
        sd = math.sqrt(self.variance)
        z = (mean - self.mean) / sd if sd else 0.0
        draws = 0 if self.drawn is None else len(self.drawn)
        excess = mean / self.mean if self.mean else (1.0 if mean == 0 else math.inf)
        return Overlap(mean, sem, pairs, self.mean, sd, excess, z, self.p(mean), dropped, dropped_at, 1 / dimensions, draws, **rest)


def too_few_draws(p: float, draws: int) -> str:
    """Why so few draws do not decide at LEVEL, where none of them is as large; nothing where they do."""
    least = 1 / (draws + 1)
    if not draws or p > least or least <= LEVEL:
        return ""
    return f"cannot tell at the level {LEVEL:g}: {draws} draws give no p below {least:.2g}; pass draws={math.ceil(1 / LEVEL) - 1} or more"


def verdict(p: float, kind: Kind, draws: int = 0) -> str:
    """What a p asks for, at LEVEL, where there is no other null. draws: of signs, that p is by."""
    if few := too_few_draws(p, draws):
        return few
    if p > LEVEL:
        return f"nothing to explain at the level {LEVEL:g}"
    if kind in ("weights", "means"):
        return f"more than this null gives: experts that are alike, or {BLIND[kind]}; one vector to an expert cannot say which"
    remedy = "pass routing= to" if kind == "unnamed" else "null='other_token' can"
    return f"cannot tell experts that are alike from {BLIND[kind]}: {remedy} hold it against other tokens"

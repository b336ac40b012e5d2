"""The null of one quantity of untrained experts: the value that a law gives, with its hypotheses, or the reason why none does."""

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from simgap.notebook import text
from simgap.nulls import spaces
from simgap.nulls.sites import TOKENS_SHARE, UPCYCLED, SiteNull, sign_symmetric, site_null, token_variance
from simgap.quantities import SHARED
from simgap.specs import GAUSSIAN_INITS, LayerSpec, RunSpec
from simgap.theory import anisotropic, gap_law, output_null, second_moments, weight_null
from simgap.theory.anisotropic import Spread

# What most nulls suppose, as a verdict says it.
SUPPOSES = "independent, sign-symmetric, equally scaled weights"
UNIFORM_KURTOSIS = 9 / 5  # E u^4 / (E u^2)^2 of a uniform number


@dataclass(frozen=True)
class Prediction:
    """The null of one quantity: its mean, and the standard deviation sd that the reported mean has around it.

    kind: "exact", "leading", "simulated" or "measured" (on the same arrays) for the mean, None where no law applies, and then `why` says
    so. order: the order of a leading mean's error; error: the size that simulated layers stay within, absolute, an estimate and no bound;
    None where it is not known, 0 for an exact mean. sd_kind: the same for sd; sd is None where its law is not known. law: its number.
    hypotheses: all that the value rests on. pairs: uncorrelated expert pairs behind sd, so that sd can be rescaled where a run lost some; 0
    where it is not theirs alone (over tokens). isotropic: each pair is one of isotropic vectors, so that the law of the mean is known and
    not only its sd (law N1B). contrast: which of the two it is, of a gap or ratio, and sides the nulls of the mean output and of W_up that
    it is made of. skew: of the reported mean, where that is known and no overlap's. draws: values of single trials under a simulated null,
    from which p is taken (`exchange_p`); where there is a skew too, by the law of these moments beyond all draws on its longer side.
    supposes: the hypotheses in three words, for a verdict.
    """

    mean: float | None
    sd: float | None = None
    kind: Literal["exact", "leading", "simulated", "measured"] | None = None
    sd_kind: Literal["exact", "leading", "simulated", "measured"] | None = None
    law: str | None = None
    hypotheses: tuple[str, ...] = ()
    pairs: int = 0
    why: str = ""
    order: str = ""
    isotropic: bool = False
    error: float | None = 0.0
    skew: float | None = None
    supposes: str = SUPPOSES
    contrast: Literal["gap", "ratio"] | None = None
    sides: "tuple[Prediction, Prediction] | None" = field(default=None, repr=False)
    draws: Float[np.ndarray, " draws"] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def missing(cls, why: str) -> "Prediction":
        return cls(None, why=why, error=None)

    def __str__(self) -> str:
        if self.mean is None:
            return f"no null: {self.why}"
        spread = "" if self.sd is None else f", sd {self.sd:.2g}"
        error = f" up to {self.order}" if self.order else ""
        return f"{self.mean:.4g}{spread} ({self.kind}{error}, law {self.law})"

    _repr_html_ = text

    def as_dict(self) -> dict[str, Any]:
        plain: dict[str, Any] = {"mean": self.mean, "sd": self.sd, "kind": self.kind, "sd_kind": self.sd_kind, "law": self.law}
        plain["hypotheses"] = list(self.hypotheses)
        return plain | {name: getattr(self, name) for name in ("order", "error", "why") if getattr(self, name)}


def null_of_weights(spec: LayerSpec, kind: str, pairs: int, across: bool = False) -> Prediction:
    if spec.init == "upcycled":
        return Prediction.missing(UPCYCLED)
    if kind == "gate" and not spec.gated:
        return Prediction.missing("gated = false: there is no W_gate")
    if kind == "all":
        return _all_weights(spec, pairs, across)
    if kind not in ("up", "gate", "down"):
        return Prediction.missing(f"no law: none is written for weights {kind}")
    if (spectrum := spaces.of_weights(spec, [(kind, 1.0)])) is not None:
        return _scaled_weights(spec, spectrum, pairs, across)
    mean = weight_null.null_weight_mso(spec.d_model, spec.d_ff)
    variance, sd_kind, extra = pair_variance(spec, spec.d_model * spec.d_ff, weights=True)
    return prediction(mean, "exact", variance, sd_kind, pairs, weight_null.ID, (*weight_null.HYPOTHESES, extra))


def _all_weights(spec: LayerSpec, pairs: int, across: bool) -> Prediction:
    size = spec.d_model * spec.d_ff
    roles = ["up", "gate", "down"] if spec.gated else ["up", "down"]
    variances = {"up": spec.d_ff, "gate": spec.d_ff, "down": spec.d_model} if spec.init.startswith("kaiming") else dict.fromkeys(roles, 1)
    if (spectrum := spaces.of_weights(spec, [(role, float(variances[role])) for role in roles])) is not None:
        return _scaled_weights(spec, spectrum, pairs, across)
    mean = weight_null.null_all_weights_mso([size] * len(roles), [variances[role] for role in roles])
    equal = len({variances[role] for role in roles}) == 1
    kind: Literal["exact", "leading"] = "exact" if equal else "leading"
    extra = "the matrices' entries have one variance" if equal else "error O(1 / (d f)) relative: norms replaced by their means"
    # Of all vectors with these second moments, cos^2 spreads like that of an isotropic vector in 1/mean dimensions.
    variance = weight_null.null_variance(1 / mean) if mean < 1 else 0.0
    sd_kind = "exact" if equal and spec.init in GAUSSIAN_INITS else "leading"
    order = "" if equal else "O(1/(d_model*d_ff)^2)"
    hypotheses = (*weight_null.HYPOTHESES, extra)
    return prediction(mean, kind, variance, sd_kind, pairs, weight_null.ID, hypotheses, order, 0.0 if equal else mean / size)


def _scaled_weights(spec: LayerSpec, spectrum: spaces.Spectrum, pairs: int, across: bool) -> Prediction:
    """Weights whose entries have the variances of a spectrum: law T5 of Gaussian ones, T1 of orthogonal ones."""
    if spec.init == "orthogonal":
        if spec.d_model > spec.d_ff:
            return Prediction.missing("init = orthogonal: in a space that is not round its law is known for d_model <= d_ff alone")
        hypotheses = (weight_null.HYPOTHESES[0], weight_null.HAAR, spaces.NORMS_CONSTANT, "sd: that of a trace with sizes is open")
        mean = spaces.orthogonal_mean(spectrum)
        return Prediction(mean, None, "exact", None, second_moments.ID, hypotheses, pairs, supposes=spaces.SUPPOSES)
    gaussian = spec.init in GAUSSIAN_INITS
    if not gaussian and spec.d_ff < spaces.FEWEST_UNIFORM:
        return Prediction.missing(f"init = {spec.init}: {spec.d_ff} uniform entries to a direction are too few for law T5, up to O(1/d_ff)")
    spread = spaces.spread_of(spectrum)
    variance, kind = _of_one_pair(spec, spread, across), "exact" if gaussian else "leading"
    hypotheses = (*spaces.WEIGHTS, spaces.GAUSSIAN if gaussian else "entries uniform: as if Gaussian, error O(1/d_ff) relative")
    order, error = ("", 0.0) if gaussian else ("O(1/d_ff)", spread.mean * spaces.uniform_error(spectrum))
    null = prediction(spread.mean, kind, variance, kind, pairs, anisotropic.ID, hypotheses, order, error)
    return replace(null, supposes=spaces.SUPPOSES)


def _of_one_pair(spec: LayerSpec, spread: Spread, across: bool) -> float:
    """The variance that uncorrelated pairs would each have, were their mean to spread as that of all pairs of a trial does."""
    if across:
        return spread.of_mean(spec.n_experts, spec.n_shared_experts) * spec.n_experts * spec.n_shared_experts
    return spread.of_mean(spec.n_experts) * math.comb(spec.n_experts, 2)


def null_of_activations(spec: LayerSpec, run: RunSpec, reading: str, site: str, pairs: int, across: bool) -> Prediction:
    if not across and reading == "token" and spec.top_k == 1 and spec.router.kind != "expert_choice":
        return Prediction.missing("top_k = 1: no token meets two experts")
    null = site_null(spec, site, reading, run.tokens, across)
    if isinstance(null, str):
        return Prediction.missing(null)
    variance, sd_kind, extra = _spread(spec, run, null, reading, site, across)
    # Over tokens the sd is not that of the pairs alone.
    alone = reading == "mean"
    hypotheses = (*null.hypotheses, extra)
    predicted = prediction(null.mean, null.kind, variance, sd_kind, pairs, null.law, hypotheses, null.order, null.error, alone)
    return predicted if null.spread is None else replace(predicted, supposes=spaces.SUPPOSES)


def _spread(spec: LayerSpec, run: RunSpec, null: SiteNull, reading: str, site: str, across: bool) -> tuple[float | None, Any, str]:
    """Variance of one pair's mean, how it is known, and the hypothesis that it adds or the reason why it is not known."""
    if null.spread is not None:
        if reading != "mean":
            return None, None, spaces.TOKENS_OPEN
        return _of_one_pair(spec, null.spread, across), "exact", f"{EVERY_EXPERT}; {spaces.COVARIANCE}"
    if null.width is None:
        return None, None, COMMON_MEAN
    if reading != "mean":
        shared = token_variance(spec, site, reading, null.width, run.tokens, across)
        return (None, None, shared) if isinstance(shared, str) else (shared, "leading", TOKENS_SHARE)
    linear = site in ("pre", "output") or (site == "hidden" and spec.activation == "identity" and not spec.gated)
    if not linear and (spec.inputs.massive or spec.inputs.document_correlation or spec.space.scales("inputs")):
        return None, None, FEW_TOKENS
    if not linear:
        variance = weight_null.null_variance(null.width) if null.width > 1 else 0.0
        return variance, "leading", HEAVY_TAILS if sign_symmetric(spec) else EXCHANGEABLE
    variance, sd_kind, extra = pair_variance(spec, null.width)
    if site != "output" and sd_kind == "exact":
        extra = ISOTROPIC_UP
    return variance, sd_kind, f"{EVERY_EXPERT}; {extra}"


def pair_variance(spec: LayerSpec, width: int, *, weights: bool = False) -> tuple[float | None, Any, str]:
    """Variance of one pair's cos^2, how it is known, and the hypothesis it adds."""
    if width < 2:
        return 0.0, "exact", "one dimension: every cos^2 is 1"
    if weights and spec.init == "orthogonal":
        return weight_null.haar_variance(spec.d_model, spec.d_ff), "exact", weight_null.HAAR
    if weights and spec.init.endswith("uniform"):
        share = weight_null.share_moment(width, UNIFORM_KURTOSIS)
        variance = weight_null.null_variance_general(width, share, share)
        return variance, "leading", "sd: entries uniform, share moments as ratios of expectations, error O(1/N) relative"
    if spec.init in GAUSSIAN_INITS or spec.init == "orthogonal":
        return weight_null.null_variance(width), "exact", weight_null.GAUSSIAN if weights else output_null.GAUSSIAN
    return weight_null.null_variance(width), "leading", "sd: as if isotropic, error O(1/N) relative"


def prediction(
    mean: float,
    kind: Any,
    variance: float | None,
    sd_kind: Any,
    pairs: int,
    law: str,
    hypotheses: tuple[str, ...],
    order: str = "",
    error: float = 0.0,
    alone: bool = True,
) -> Prediction:
    """The Prediction of a mean over `pairs` of this variance; alone says that the pairs are all that its sd rests on."""
    behind = pairs if alone else 0
    if variance is None:
        return Prediction(mean, None, kind, None, law, hypotheses, behind, order=order, error=error)
    isotropic = kind == sd_kind == "exact" and 0 < mean < 1 and math.isclose(variance, weight_null.null_variance(1 / mean), rel_tol=1e-9)
    sd = math.sqrt(max(variance, 0.0) / pairs)
    return Prediction(mean, sd, kind, sd_kind, law, hypotheses, behind, order=order, isotropic=isotropic, error=error)


def null_of_gap(spec: LayerSpec, output: Prediction, up: Prediction) -> Prediction:
    if output.mean is None or up.mean is None:
        return Prediction.missing(output.why or up.why)
    gap = _contrast(output, up, gap_law.null_gap(spec.d_model, spec.d_ff), output.mean - up.mean)
    hypotheses = (*gap.hypotheses, "the two overlaps are uncorrelated, as N2 makes them")
    gap = replace(gap, hypotheses=hypotheses, error=(output.error or 0.0) + (up.error or 0.0))
    if output.sd is None or up.sd is None:
        return gap
    sd_kind: Any = "exact" if output.sd_kind == up.sd_kind == "exact" else "leading"
    return replace(gap, sd=math.hypot(output.sd, up.sd), sd_kind=sd_kind, contrast="gap", sides=(output, up))


def null_of_ratio(spec: LayerSpec, output: Prediction, up: Prediction, pairs: int) -> Prediction:
    if output.mean is None or up.mean is None:
        return Prediction.missing(output.why or up.why)
    null = _contrast(output, up, float(gap_law.null_ratio(spec.d_ff)), output.mean / up.mean)
    note = "a ratio of expectations; a ratio of measured means exceeds it by O(1 / (pairs x trials)) relative"
    order = " + ".join(["O(d_ff/(pairs*trials))", *filter(None, [up.order])])
    null = replace(null, kind="leading", hypotheses=(*null.hypotheses, note), order=order, pairs=pairs, error=None)
    if null.mean is None or output.sd is None or up.sd is None:
        return null
    variance = gap_law.ratio_variance(output.mean, output.sd**2, up.mean, up.sd**2)
    # By how much the expectation of 1 / weight MSO exceeds 1 / its mean.
    error = null.mean * ((up.sd / up.mean) ** 2 + (up.error or 0.0) / up.mean)
    return replace(null, sd=math.sqrt(variance), sd_kind="leading", error=error, contrast="ratio", sides=(output, up))


def _contrast(output: Prediction, up: Prediction, in_round_space: float, elsewhere: float) -> Prediction:
    """What the gap and the ratio have in common: in a round space law N3 has their value, elsewhere that of each side gives it."""
    is_round = output.law == output_null.ID and up.law == weight_null.ID
    hypotheses = tuple(dict.fromkeys(output.hypotheses + up.hypotheses))
    law, supposes = (gap_law.ID, SUPPOSES) if is_round else ("T5", spaces.SUPPOSES)
    kind: Any = "exact" if output.kind == up.kind == "exact" else "leading"
    mean = in_round_space if is_round else elsewhere
    return Prediction(mean, None, kind, None, law, hypotheses, output.pairs, order=up.order, supposes=supposes)


def pairs_of(spec: LayerSpec, run: RunSpec, side: str) -> int:
    """Pairs of experts on a side, over all trials."""
    across = spec.n_experts * spec.n_shared_experts
    return run.trials * (across if side == SHARED else spec.n_experts * (spec.n_experts - 1) // 2)


ISOTROPIC_UP = "W_up (W_gate, where gated) isotropic on the left (Gaussian or Haar): cos^2 ~ Beta(1/2, (f-1)/2)"
EVERY_EXPERT = "every expert receives a token (else fewer pairs)"
HEAVY_TAILS = f"{EVERY_EXPERT}; sd: as if isotropic, error O(K^2/f) relative, K the kurtosis of an entry (laws N1, A7)"
EXCHANGEABLE = f"{EVERY_EXPERT}; sd: as if isotropic in f - 1 dimensions, error O(K^2/f) relative, K the kurtosis of an entry"
FEW_TOKENS = "sd: a few tokens, documents or directions make the mean vectors, and how heavy the tails of their entries are is open"
COMMON_MEAN = "sd: the two vectors share a mean, and how far their overlap spreads about it is open"

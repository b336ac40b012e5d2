"""Predict a layer: the null of every quantity that is asked for, each with its hypotheses, or with the reason why no law gives one."""

from collections.abc import Hashable, Sequence

from simgap.nulls import Prediction, null_by_name, reads_whole_spec
from simgap.quantities import READINGS, SITES, WEIGHT_KINDS
from simgap.results import Gap
from simgap.selection import Selection, select
from simgap.settings import numpy_settings
from simgap.specs import LayerSpec, RunSpec


@numpy_settings
def predict(
    spec: LayerSpec,
    *,
    tokens: int = 1024,
    trials: int = 10,
    sites: Sequence[str] = SITES,
    readings: Sequence[str] = READINGS,
    weights: Sequence[str] = WEIGHT_KINDS,
    metrics: Sequence[str] | str | None = None,
    quantities: Sequence[str] | str | None = None,
    null: str = "law",
) -> Gap[Prediction]:
    """The overlaps of untrained experts by theory: a Gap of Predictions, in the shape that `measure` returns.

    Exact by laws N1-N4 and A7 wherever signs or exchangeability decide, and by A5 for rectified vectors on a token under Gaussian weights;
    to leading order, with the order of the error, by A5 otherwise, A6 (means of rectified vectors) and L1 (after a norm with gain and
    bias); in a space that is not round (`SpaceSpec`) exact by T5 or T1 where weights are isotropic but for its sizes. Where a law's
    hypotheses fail (upcycled experts, ...) the prediction is None and says why. Nulls of routing and CKA are simulated, which takes
    seconds. metrics, quantities: as of `measure`. null="simulated": of every quantity what 16 to 199 untrained layers of the same spec
    give, the more the smaller they are, on seeds of their own; p is then that of the trials among those layers (`exchange_p`).
    null="isotropic": overlaps in a round space (N1 to N4, A7, T7B), whatever the space of the spec; none for vectors that share a mean.

    Raises ValueError for a name that does not exist, and for a null that is for given arrays.
    """
    selection = select(quantities, metrics=metrics, sites=sites, readings=readings, weights=weights, null=null)
    return predicted(spec, RunSpec(tokens=tokens, trials=trials), selection)


def predicted(spec: LayerSpec, run: RunSpec, selection: Selection) -> Gap[Prediction]:
    """`predict` of what is selected."""
    values = {quantity: null_by_name(spec, run, quantity, selection) for quantity in selection.sides(spec)}
    return Gap(spec, run, values, null=selection.null)


def predicted_alike(spec: LayerSpec, selection: Selection) -> tuple[Hashable, ...]:
    """What decides the predictions of a layer: what laws read of it, or all of it where a null simulates such layers."""
    return (spec.key(),) if reads_whole_spec(selection) else read_by_laws(spec)


def read_by_laws(spec: LayerSpec) -> tuple[Hashable, ...]:
    """What the laws read of a layer: layers that are equal in it are predicted alike, to the bit."""
    router, inputs = spec.router, spec.inputs
    return (
        *(spec.d_model, spec.d_ff, spec.n_experts, spec.top_k, spec.n_shared_experts, spec.activation, spec.gated, spec.init),
        *(spec.norm, spec.norm_affine, spec.norm_affine_std),
        *(router.kind, router.noise * router.temperature if router.kind == "noisy" else 0.0, router.kind == "sigmoid" and router.bias > 0),
        *(inputs.kind, inputs.mean, inputs.alpha if inputs.kind == "powerlaw" else 0.0, inputs.dof if inputs.kind == "student" else 0.0),
        *(inputs.massive > 0, inputs.document_correlation > 0),
        *(spec.space if spec.space.uneven else None, spec.space.bias > 0),
    )

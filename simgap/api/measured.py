"""Measure a layer: draw it, run it, and reduce it to overlaps, one value to a trial."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace

from simgap.api.batch import Request, gathered, sums_of
from simgap.api.explained_layer import KeptVectors, check_explained, explained_layer
from simgap.moe import Weights
from simgap.quantities import READINGS, SITES, WEIGHT_KINDS
from simgap.results import Gap
from simgap.selection import select
from simgap.settings import own_settings
from simgap.specs import LayerSpec, RunSpec
from simgap.stats import Estimate

# A streamed trial is done in fractions.
TRIALS_BAR = "{desc}{percentage:3.0f}%|{bar}| {n:.2f}/{total} trials [{elapsed}<{remaining}]"


@own_settings
def measure(
    spec: LayerSpec,
    *,
    tokens: int = 1024,
    trials: int = 10,
    seed: int = 0,
    device: str = "cpu",
    dtype: str = "float32",
    memory: int | str = "2GiB",
    sites: Sequence[str] = SITES,
    readings: Sequence[str] = READINGS,
    weights: Sequence[str] = WEIGHT_KINDS,
    metrics: Sequence[str] | str | None = None,
    quantities: Sequence[str] | str | None = None,
    null: str = "law",
    prepare: Callable[[Weights], Weights] | None = None,
    progress: Callable[[float], object] | bool = False,
    explain: bool = False,
) -> Gap[Estimate]:
    """Simulate `trials` independent layers of a spec on fresh tokens and measure every overlap: a Gap of Estimates.

    metrics: names of files in `simgap.metrics`, whose quantities are measured at these sites, in these readings and of these weights; by
    default those of overlaps and the gap. "routing" and "cka" are there too. quantities: texts in their place, such as "weight_mso up",
    "activation_mso mean" (at every site) or "gap". null: the name of what the result is held against where it is printed, calibrated or
    framed, as of `predict`; no measured value depends on it.

    Trials are the sample: each mean is over trials, and sem says how far another set of layers and tokens would move it. prepare takes the
    drawn Weights of a group of trials and returns those to use (weights of other trials must not enter, or the memory budget would).
    explain: tell where the overlap of outputs on a token comes from, by `sg.explain` of the routed experts' outputs on the first trial,
    those that are measured; result.explanation, printed below the table. Tokens are of documents of spec.inputs.document_tokens.
    progress=True shows a bar on stderr; a function is called with the trials just finished, of a streamed layer in fractions. The same
    request gives the same bits on a CPU of one model with one set of library versions, whatever the memory budget and the number of threads
    (torch.set_num_threads).

    memory bounds all that is held beside the loaded libraries (some 0.4 GiB): arrays and tables of pairs, what a library keeps of its
    products, what is kept of each trial. What the machine or the container has bounds it too. A layer whose weights do not fit is streamed:
    trial by trial, each block of weights drawn when it is used and forgotten, again for every block of tokens. Orthogonal weights, which
    are drawn whole, and prepared ones must fit. Where the budget has little room to spare, freed arrays go back to the system at once
    (glibc's mallopt, which acts on the whole process; with a MALLOC_ variable set it is let be).

    Raises ValueError naming the argument for a request that cannot be met: an absent device, too small a budget, a bad file of inputs, a
    layer whose outputs cannot be explained (top_k = 1, fewer than 5 experts, one document),
    a name of a site, reading, matrix, metric or quantity that does not exist, vectors that are not finite.
    """
    if not isinstance(spec, LayerSpec):
        raise ValueError(f"spec: expected a LayerSpec, got {type(spec).__name__}")
    if prepare is not None and not callable(prepare):
        raise ValueError(f"prepare: expected a function of the weights, got {type(prepare).__name__}")
    run = RunSpec(tokens=tokens, trials=trials, seed=seed, device=device, dtype=dtype, memory=memory)  # type: ignore[arg-type]
    selection = select(quantities, metrics=metrics, sites=sites, readings=readings, weights=weights, null=null)
    if explain is not False:
        check_explained(explain, spec, run)
    keeper = KeptVectors() if explain else None
    selection = replace(selection, kept=keeper.sites) if keeper else selection
    with nullcontext(progress or None) if callable(progress) or not progress else _bar(run.trials) as tell:
        (sums,) = sums_of([Request(spec, run)], selection, prepare, tell, keeper)
    measured = gathered(spec, run, sums, selection)
    return replace(measured, explanation=explained_layer(spec, run, keeper)) if keeper else measured


@contextmanager
def _bar(trials: int) -> Iterator[Callable[[float], object]]:
    """A bar on stderr, as what is to be called with the trials just finished."""
    from tqdm import tqdm

    with tqdm(total=trials, leave=False, bar_format=TRIALS_BAR) as bar:
        yield bar.update

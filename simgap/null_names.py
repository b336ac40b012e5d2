"""The nulls by name: what each leaves to chance, what it judges, and where it is not to be had. All that takes a name reads this table."""

from typing import NamedTuple

from simgap.checks import choice
from simgap.quantities import Quantity

WEIGHTS, MEANS, TOKENS = "weights", "mean vectors", "vectors on a token"


class NullName(NamedTuple):
    """chance: what is left to chance. judges: the overlaps of given arrays that it is a null of. layers: why a simulated layer has no such
    null, "" where it has."""

    chance: str
    judges: tuple[str, ...]
    layers: str = ""


TABLE = {
    "law": NullName("what theory says of each value", (WEIGHTS, MEANS, TOKENS)),
    "signs": NullName(
        "fair signs of entries that keep their sizes",
        (WEIGHTS, MEANS, TOKENS),
        "keeps the sizes of entries, which the law of a layer knows",
    ),
    "isotropic": NullName("independent experts in a round space", (WEIGHTS, MEANS, TOKENS)),
    "other_token": NullName(
        "the same pairs of experts on other tokens", (TOKENS,), "reads vectors, as explain=True of measure does with those of a layer"
    ),
    "renumbered": NullName("each expert's hidden units in any order", (WEIGHTS,), "reads matrices"),
    "separable": NullName(
        "independent matrices with the scales of these rows and columns", (WEIGHTS,), "reads matrices; the law of a layer knows its scales"
    ),
    "permuted": NullName("experts' vectors on other tokens of their own", (TOKENS,), "draws from vectors"),
    "random_groups": NullName("vectors dealt to the experts anew", (MEANS, TOKENS), "draws from vectors"),
    "simulated": NullName("untrained layers of the same spec", ()),
}
OF_ARRAYS = tuple(name for name, null in TABLE.items() if null.judges)
OF_LAYERS = tuple(name for name, null in TABLE.items() if not null.layers)
# A mean that is taken out leaves another overlap, so that no null of the first one is held against it.
CENTRED = "a value of its own and no null, since means less what they share overlap otherwise; ask for metrics='centred_overlap'"


def check_null_of_layer(name: object) -> None:
    """ValueError for a name that no simulated layer is held against: the nearest one, or why this one is for arrays."""
    if name == "centred":
        raise ValueError(f"null: 'centred' is {CENTRED}")
    if isinstance(name, str) and name in TABLE and (why := TABLE[name].layers):
        raise ValueError(f"null: {name!r} is for given arrays (measure_arrays), since it {why}; a layer has {', '.join(OF_LAYERS)}")
    choice("null", name, OF_LAYERS)


def check_null_of_arrays(name: object, kind: str = "") -> None:
    """ValueError for a name that no arrays, or none of this kind, are held against. kind: WEIGHTS, MEANS or TOKENS."""
    if name == "centred":
        raise ValueError(f"null: 'centred' is {CENTRED} and null='isotropic' of measure_arrays")
    if name == "simulated":
        raise ValueError("null: 'simulated' is for layers of a spec (measure, predict, sweep), and arrays have none")
    choice("null", name, OF_ARRAYS)
    if kind and kind not in TABLE[str(name)].judges:
        raise ValueError(f"null: {name!r} is {not_judged(str(name), kind)}")


def not_judged(name: str, kind: str = "") -> str:
    """What a null is not of, and which ones are."""
    judges = TABLE[name].judges
    if kind:
        return f"not of {kind}; {', '.join(other for other, null in TABLE.items() if kind in null.judges)} are"
    return "of overlaps alone" if len(judges) > 2 else f"of overlaps of {' and '.join(judges)} alone"


def kind_of(quantity: Quantity) -> str:
    """WEIGHTS, MEANS or TOKENS, "" for what is no overlap of these."""
    if quantity.metric == "activation_mso":
        return {"mean": MEANS, "token": TOKENS}.get(quantity.reading, "")
    return WEIGHTS if quantity.metric == "weight_mso" else ""

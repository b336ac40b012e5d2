"""The persistence paper's tables, and what it says of how they were made.

"Persistence of the Weight-Activation Gap in Mixture-of-Experts Models Across Scales and Architectures", AI4Sciences Research. The CSV files
beside this one hold the printed digits. Marks: [stated] in the paper's own text, [reading] our reconstruction, [unknown].
"""

import csv
from importlib.resources import files

from simgap import LayerSpec
from simgap.api.reported import Reported

LAMBDAS = (0.0, 0.01, 0.1, 1.0, 5.0)
TRIALS = 10  # [stated] for the regularisation scan, [unknown] for the others
D_FF_TABLE1 = 128  # [reading]: Table 1's first row has Std-8E's values
MARKS = (
    "Published values, d, E, k, d_ff = 4d (Table 2) and d_ff (Table 3), ReLU and Kaiming init: [stated]. Weight overlap of W_up alone, "
    "activation overlap of experts' mean output vectors: [reading], as Table 2's values fit them. Tokens, their law and the router: "
    "[unknown]; ours are isotropic Gaussian tokens and a linear top-k router, and the laws do not depend on them."
)


def expert(d_model: int, d_ff: int, n_experts: int = 8, top_k: int = 2) -> LayerSpec:
    """The paper's expert: y = W_down relu(W_up x), Kaiming init."""
    return LayerSpec(d_model=d_model, d_ff=d_ff, n_experts=n_experts, top_k=top_k, activation="relu", init="kaiming_normal")


def table(number: int) -> list[dict[str, str]]:
    """Rows of a published table, as printed."""
    text = files("experiments.persistence").joinpath(f"data/persistence_table{number}.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def reported(row: dict[str, str]) -> tuple[Reported, Reported]:
    """Weight and activation overlap of a row, with their roundings; where a row prints no weight overlap, activation minus gap."""
    activation = Reported.parse(row["activation_mso"])
    weight = Reported.parse(row["weight_mso"]) if "weight_mso" in row else activation - Reported.parse(row["gap"])
    return weight, activation

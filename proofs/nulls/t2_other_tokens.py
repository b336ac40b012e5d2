"""T2: on a token, independent experts overlap by more than on different tokens where their second moment depends on the token, else not."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import sympy as sp

from proofs.nulls._situations import Law, broken, polynomial
from proofs.statement import EQUAL, Check, Derivation, Statement, Wrong, generator, mean_and_sem
from simgap.theory.other_tokens import HYPOTHESES, meeting_gain

STATEMENT = Statement(
    id="T2",
    kind=EQUAL,
    title="meeting on a token adds to the overlap of independent experts only what their second moment varies by",
    claim=r"\mathbb{E}(L_3 - L_2) = \mathbb{E}_t\lVert S(t) - \bar S\rVert_F^2 \ge 0",
    hypotheses=(HYPOTHESES[0], "experts drawn alike", HYPOTHESES[2], "no vector is zero"),
    box={"d": (1, None)},
    tight="0 where S(t) is the same on all tokens: a shared projection of Gaussian weights, however unround",
)
TOKENS, D, F, PAIRS = 6, 4, 5, 40_000
METRIC = np.array([10.0, 1.0, 1.0, 1.0])

LAW = Law(meeting_gain, "a shared projection")
certified = polynomial


def symbolic(law: Law = LAW) -> Check:
    """From the definition: E <u, u'>^2 = tr(S S') of independent unit vectors, on one token and on two that are drawn apart."""
    proof = Derivation()
    proof.step(
        "given the tokens, experts are independent: L3 is the mean of tr S(t)^2, L2 that of tr S(t) S(t') over two tokens drawn apart"
    )
    for tokens, d in ((2, 2), (3, 2), (2, 3)):
        moments = []
        for t in range(tokens):
            moment = np.empty((d, d), object)
            for i in range(d):
                for j in range(i, d):
                    moment[i, j] = moment[j, i] = sp.Symbol(f"s{t}_{i}{j}", real=True)
            moments.append(moment)
        same = sum((moment @ moment).trace() for moment in moments) / tokens
        apart = sum((one @ other).trace() for one in moments for other in moments) / tokens**2
        proof.equal(f"{tokens} tokens, d = {d}", sp.expand(same - apart), sp.expand(law.of(moments)))
    proof.step("a sum of squares: 0 only where every S(t) is the mean")
    return proof.check()


@cache
def _units(situation: str) -> np.ndarray:
    """Unit outputs of many experts on TOKENS fixed tokens, (2, PAIRS, TOKENS, D): pairs of independent ones."""
    random = generator("T2", situation)
    x = random.standard_normal((TOKENS, 3)) * np.array([0.2, 0.5, 1.0, 1.0, 2.0, 5.0])[:, None]
    hidden = np.maximum(random.standard_normal((2 * PAIRS, F, 3)) @ x.T, 0) + 0.5
    # On some tokens one hidden unit is most of the vector.
    hidden[:, 0, : TOKENS // 2] *= 20
    shape = (2 * PAIRS, D, F)
    down = random.choice((-1.0, 1.0), shape) if situation == "random signs" else random.standard_normal(shape)
    y = (down @ hidden).transpose(0, 2, 1)
    if situation != "a common bias":
        y = y * METRIC
    if situation == "a common bias":
        y = y + 3 * np.ones(D)
    if situation == "a residual":
        y = y + 3 * random.standard_normal((TOKENS, D)) * METRIC
    return (y / np.linalg.norm(y, axis=-1, keepdims=True)).reshape(2, PAIRS, TOKENS, D)


def numeric(law: Law = LAW) -> Check:
    """ReLU experts whose outputs pass one projection that is not round: the gain is 0. A bias adds what the second moments say."""
    proof = Derivation()
    left, right = _units(law.situation)
    proof.estimate(f"{law.situation}: L3 - L2", *mean_and_sem(_gains(left, right)), 0.0)
    left, right = _units("a common bias")
    # Second moments from one half of the experts, gains from the other.
    half = PAIRS // 2
    moments = [np.einsum("pi,pj->ij", left[:half, t], left[:half, t]) / half for t in range(TOKENS)]
    gain = float(law.of(moments))
    # What the moments' own errors add to a sum of squares is of the order of 1/half.
    proof.estimate("a common bias, tokens of unequal size: L3 - L2", *mean_and_sem(_gains(left[half:], right[half:])), gain, 4 / half)
    return proof.check()


def _gains(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    squares = np.einsum("ptd,pud->ptu", left, right) ** 2
    return np.einsum("ptt->p", squares) / TOKENS - squares.mean((1, 2))


def _none(moments: Any) -> Any:
    return 0 * meeting_gain(moments)


def _whole(moments: Any) -> Any:
    return sum((moment**2).sum() for moment in moments) / len(moments)


def control() -> list[Wrong]:
    return [
        Wrong("no gain, whatever the second moments", replace(LAW, of=_none)),
        Wrong("the mean of ||S(t)||^2: nothing shared", replace(LAW, of=_whole)),
        # The second: random signs for weights, in a space that is not round.
        *broken(LAW, "the derivation knows second moments only", ("a residual", "random signs")),
    ]

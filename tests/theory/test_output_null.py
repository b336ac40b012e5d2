"""Law N2 by enumeration of every sign matrix, in fractions."""

import itertools
from fractions import Fraction

import pytest

from simgap.theory.output_null import null_output_mso


def sign_matrices(rows, columns):
    for entries in itertools.product((-1, 1), repeat=rows * columns):
        yield [entries[i * columns : (i + 1) * columns] for i in range(rows)]


def apply(W, h):
    return [sum(w * a for w, a in zip(row, h, strict=True)) for row in W]


def exact_cos2(u, v):
    dot = sum(a * b for a, b in zip(u, v, strict=True))
    return Fraction(dot * dot) / (sum(a * a for a in u) * sum(b * b for b in v))


def mean_cos2(pairs):
    values = [exact_cos2(u, v) for u, v in pairs if any(u) and any(v)]
    return sum(values) / len(values)


@pytest.mark.parametrize(
    "d, h1, h2",
    [(2, (1, 2), (3, 1)), (2, (1, 2), (1, 2)), (3, (1, 2), (5, 1)), (2, (1, 2, 4), (1, 0, 0)), (3, (2, 1), (1, 1))],
    ids=str,
)
def test_outputs_overlap_by_one_over_d_whatever_the_hidden_vectors(d, h1, h2):
    """The last case meets zero outputs, which are left out: what is defined keeps the value."""
    pairs = [(apply(A, h1), apply(B, h2)) for A in sign_matrices(d, len(h1)) for B in sign_matrices(d, len(h2))]
    assert mean_cos2(pairs) == null_output_mso(Fraction(d))


def test_one_random_side_is_enough():
    fixed = (7, -2, 4)
    assert mean_cos2([(apply(A, (1, 2)), fixed) for A in sign_matrices(3, 2)]) == null_output_mso(Fraction(3))


def test_means_over_tokens_are_outputs_of_mean_hidden_vectors():
    tokens = [(Fraction(1), Fraction(2)), (Fraction(4), Fraction(-1)), (Fraction(0), Fraction(3))]
    mean = [sum(t[i] for t in tokens) / 3 for i in range(2)]
    pairs = []
    for A in sign_matrices(2, 2):
        outputs = [apply(A, t) for t in tokens]
        averaged = [sum(y[i] for y in outputs) / 3 for i in range(2)]
        assert averaged == apply(A, mean)
        pairs += [(averaged, apply(B, (2, 1))) for B in sign_matrices(2, 2)]
    assert mean_cos2(pairs) == null_output_mso(Fraction(2))


def test_the_hypotheses_are_needed():
    d = Fraction(3)
    tied = [(apply(A, (1, 2)), apply(A, (5, 1))) for A in sign_matrices(3, 2)]
    assert mean_cos2(tied) > null_output_mso(d)
    residual = (4, 0, 0)
    added = [
        ([a + r for a, r in zip(apply(A, (1, 2)), residual, strict=True)], [b + r for b, r in zip(apply(B, (1, 2)), residual, strict=True)])
        for A in sign_matrices(3, 2)
        for B in sign_matrices(3, 2)
    ]
    assert mean_cos2(added) > null_output_mso(d)
    one_sided = [(apply(A, (1, 2)), (1, 1, 1)) for A in sign_matrices(3, 2) if A[0][0] == A[1][0] == 1]
    assert mean_cos2(one_sided) != null_output_mso(d)


def test_the_value_in_floats():
    assert null_output_mso(128) == 1 / 128
    assert null_output_mso(1) == 1

"""A null that is chosen by name is the one that is printed and judged, the same that `measure_arrays` has."""

import numpy as np
import pytest

import simgap as sg

E, F, D, N = 8, 24, 16, 300
g = np.random.default_rng(0)
W = g.standard_normal((E, F, D)) * np.arange(1, D + 1) ** -0.5
ROUTING = g.random((N, E)).argsort(1)[:, :2]
H = g.standard_normal((N, 2, D))
ALIKE = H + np.array([0, 1])[:, None] * H[:, :1]
UNITS = {"renumbered": {"units": 1}}
OF_WEIGHTS = ("signs", "isotropic", "separable", "renumbered")
OF_TOKENS = ("signs", "isotropic", "other_token", "permuted", "random_groups")
NUMBERS = ("null", "null_sd", "excess", "z", "p")


def two_sided(p):
    return 2 * min(p, 1 - p)


@pytest.mark.parametrize("null", OF_WEIGHTS)
def test_weights(null):
    found = sg.weight_mso(W, null=null, **UNITS.get(null, {}))
    table = sg.measure_arrays(weights={"up": W}, null=null)["weight_mso up"]
    assert (found.name, found.beside, found.elsewhere) == (null, (), None)
    assert (found.mean, found.null, found.z) == pytest.approx((table.mean, table.null, table.z), rel=1e-6)
    assert found.z == pytest.approx((found.mean - found.null) / found.null_sd)
    if null in ("isotropic", "separable"):
        assert two_sided(found.p) == pytest.approx(table.p, rel=1e-6)
    assert found.mean == sg.weight_mso(W).mean


@pytest.mark.parametrize("null", OF_TOKENS)
@pytest.mark.parametrize("vectors", [H, ALIKE])
def test_vectors_on_tokens(null, vectors):
    found = sg.token_mso(vectors, routing=ROUTING, null=null)
    table = sg.measure_arrays(vectors, ROUTING, metrics="vector_overlap", null=null)["activation_mso token output"]
    assert (found.name, found.beside) == (null, ())
    assert (found.mean, found.null, found.z) == pytest.approx((table.mean, table.null, table.z), rel=1e-6)
    if null == "isotropic" and vectors is H:
        assert two_sided(found.p) == pytest.approx(table.p, rel=1e-6)
    if null in ("permuted", "random_groups") and vectors is ALIKE:
        assert (found.p, table.p) == pytest.approx((1 / (found.draws + 1), 2 / (found.draws + 1)))
        assert found.verdict.startswith(f"cannot tell at the level 0.001: {found.draws} draws give no p below")
    assert ("nothing to explain" in found.verdict) is (vectors is H)


@pytest.mark.parametrize("null", ["signs", "isotropic", "random_groups"])
def test_mean_vectors(null):
    found = sg.mean_mso(H, ROUTING, null=null)
    table = sg.measure_arrays(H, ROUTING, metrics="mean_overlap", null=null)["activation_mso mean output"]
    assert (found.mean, found.null, found.z) == pytest.approx((table.mean, table.null, table.z), rel=1e-6)
    assert found.name == null


def test_the_default_is_signs_with_the_second_null_beside():
    by_default, named = sg.token_mso(H, routing=ROUTING), sg.token_mso(H, routing=ROUTING, null="law")
    assert by_default == named
    assert [other.name for other in named.beside] == ["other_token"]
    alone, beside = sg.token_mso(H, routing=ROUTING, null="other_token"), by_default.beside[0]
    assert [getattr(alone, name) for name in NUMBERS] == [getattr(beside, name) for name in NUMBERS]
    signs = sg.token_mso(H, routing=ROUTING, null="signs")
    assert [getattr(signs, name) for name in NUMBERS] == [getattr(by_default, name) for name in NUMBERS]
    orders, second = sg.weight_mso(W, units=1, null="renumbered"), sg.weight_mso(W, units=1).beside[0]
    assert [getattr(orders, name) for name in NUMBERS] == [getattr(second, name) for name in NUMBERS]


def test_what_is_printed():
    assert "its null 0.0625 isotropic (independent experts in a round space), z" in str(sg.token_mso(H, routing=ROUTING, null="isotropic"))
    assert "other_token (independent experts, on other tokens" in str(sg.token_mso(H, routing=ROUTING, null="other_token"))
    assert "(independent, sign-symmetric in this basis; 0.0625 in a round space)" in str(sg.token_mso(H, routing=ROUTING, null="signs"))
    more = sg.token_mso(ALIKE, routing=ROUTING, null="isotropic").verdict
    assert more.startswith("more than independent experts in a round space give; a space that is not round")
    assert "would do this too; tokens count as independent" in sg.token_mso(ALIKE, routing=ROUTING, null="other_token").verdict
    assert sg.token_mso(ALIKE, routing=ROUTING, null="signs").verdict.endswith("null='other_token' can hold it against other tokens")
    many = sg.token_mso(ALIKE, routing=ROUTING, null="permuted", draws=999)
    assert many.verdict == (
        "more than experts on other tokens give; tokens of unequal size, a residual or shared expert in the vectors would do this too"
    )
    copies = np.stack([W[0]] * 4)
    assert sg.weight_mso(copies, units=1, null="renumbered").verdict.startswith(
        "more than units in any order give: units of the same number"
    )
    plain = sg.token_mso(H, routing=ROUTING, null="isotropic").as_dict()
    assert (plain["name"], plain["supposes"]) == ("isotropic", "independent experts in a round space")


def test_large_directions_are_the_isotropic_nulls_excess_and_no_sign_of_the_others():
    large = H * np.where(np.arange(D) < 2, 10.0, 1.0)
    assert sg.token_mso(large, routing=ROUTING, null="isotropic").p < 1e-6
    assert sg.token_mso(large, routing=ROUTING, null="random_groups").p > 0.01
    assert sg.token_mso(large, routing=ROUTING, null="signs").p > 1e-3
    assert sg.token_mso(large, routing=ROUTING, null="other_token").p > 1e-2


def test_nulls_that_ask_nothing_of_signs_take_rectified_vectors():
    wide = abs(np.random.default_rng(1).standard_normal((N, 2, 64)))
    for null in ("law", "signs", "isotropic"):
        with pytest.raises(ValueError, match=r"got rectified ones .*; null=\"random_groups\" asks nothing of signs$"):
            sg.token_mso(wide, routing=ROUTING, null=null)
    for null in ("other_token", "permuted", "random_groups"):
        assert sg.token_mso(wide, routing=ROUTING, null=null).p > 0.01
    assert sg.mean_mso(wide, ROUTING, null="random_groups").p > 0.01


def test_padding_is_never_read():
    padded, routing = np.concatenate([H, np.full((50, 2, D), np.nan)]), np.concatenate([ROUTING, np.full((50, 2), -1)])
    mask = np.arange(350) < 300
    for null in OF_TOKENS:
        alone = sg.token_mso(H, routing=ROUTING, null=null)
        assert sg.token_mso(padded, routing=routing, null=null) == alone
        assert sg.token_mso(padded, routing=np.where(mask[:, None], routing, 5), mask=mask, null=null) == alone
    # Numbers of experts say nothing.
    assert sg.token_mso(H, routing=ROUTING * 10_000, null="permuted").p == sg.token_mso(H, routing=ROUTING, null="permuted").p


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: sg.weight_mso(W, null="sign"), r"^null: expected one of law, signs, .*; did you mean 'signs'\?$"),
        (lambda: sg.weight_mso(W, null="other_token"), "^null: 'other_token' is not of weights; law, signs, isotropic, renumbered, separ"),
        (
            lambda: sg.mean_mso(H, ROUTING, null="permuted"),
            "^null: 'permuted' is not of mean vectors; law, signs, isotropic, random_groups",
        ),
        (
            lambda: sg.token_mso(H, null="renumbered"),
            "^null: 'renumbered' is not of vectors on a token; law, signs, isotropic, other_token",
        ),
        (lambda: sg.mean_mso(H, ROUTING, null="centred"), "^null: 'centred' is a value of its own .*; ask for metrics='centred_overlap'"),
        (lambda: sg.token_mso(H, null="simulated"), r"^null: 'simulated' is for layers of a spec \(measure, predict, sweep\)"),
        (
            lambda: sg.weight_mso(W, null="renumbered"),
            r"^units: expected the axis of hidden units, 1 or 2, for null='renumbered', got none$",
        ),
        (lambda: sg.weight_mso(W, units=1, null="signs"), "^units: expected null='law' or 'renumbered', got null='signs'$"),
        (lambda: sg.weight_mso(W[:, 0], null="separable"), r"^weights: expected \(E, rows, columns\) for null='separable', got shape"),
        (lambda: sg.token_mso(H, null="permuted"), r"^routing: expected \(..., k\) integers.*, for null='permuted', got none$"),
        (lambda: sg.token_mso(H, null="other_token"), r"^routing: expected .*, for null='other_token', got none$"),
        (
            lambda: sg.token_mso(H, routing=ROUTING, documents=ROUTING[:, 0], null="signs"),
            "^documents, strata: expected null='law' or 'other_token', got null='signs'$",
        ),
        (
            lambda: sg.weight_mso(W, null="isotropic", draws=9),
            "^draws: expected null= one of law, signs, permuted, random_groups, renumber",
        ),
        (lambda: sg.token_mso(H, routing=ROUTING, null="permuted", draws=1), "^draws: expected at least 2 permutations"),
        (lambda: sg.token_mso(H[:2], routing=ROUTING[:2], null="other_token"), "^null: 'other_token' is not to be had of these arrays: "),
        (
            lambda: sg.mean_mso(H[..., :1], ROUTING, null="isotropic"),
            "^null: 'isotropic' is not to be had of these arrays: in fewer than 2",
        ),
    ],
)
def test_what_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()

"""Printed numbers: the interval that each stands for, their p under a null, and the width that gave them."""

import math
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats as oracle

from simgap.api.reported import FITS, FIVE_SIGMA, Reported, fitting_widths, joint_p
from simgap.theory import null_mso, null_variance

# Exponents of two digits: a double holds them all.
LONG_EXPONENT = re.compile(r"[eE][+-]?\d{3}")
NUMBERS = st.from_regex(r"[+-]?[0-9]{1,30}(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,2})?", fullmatch=True)


@pytest.mark.parametrize(
    "text, value, half_unit",
    [
        ("1.33e-4", 1.33e-4, 5e-7),
        ("0.0169", 0.0169, 5e-5),
        ("0", 0.0, 0.5),
        ("5", 5.0, 0.5),
        ("1e-3", 1e-3, 5e-4),
        ("1.50", 1.5, 5e-3),
        ("-2.5E+3", -2500.0, 50.0),
        ("  +0.10\n", 0.1, 5e-3),
        ("00.7", 0.7, 5e-2),
    ],
)
def test_a_number_and_what_rounds_to_it(text, value, half_unit):
    found = Reported.parse(text)
    assert found.value == value
    assert found.half_unit == pytest.approx(half_unit, rel=1e-15)


@pytest.mark.parametrize(
    "text", ["", " ", ".5", "5.", "1,5", "1e", "e-3", "1e-3e", "nan", "inf", "0x1", "1_000", "1 2", "--1", "<0.001", "1%"]
)
def test_what_is_no_decimal_number_is_refused(text):
    with pytest.raises(ValueError, match=r"reported: expected a decimal number such as 1\.33e-4, got "):
        Reported.parse(text)


@pytest.mark.parametrize("text", ["9" * 31, "0." + "1" * 31, "1e0001", "7" * 100_000, "0." + "0" * 100_000 + "1", "1e" + "9" * 100_000])
def test_endless_digits_are_refused_at_once(text):
    with pytest.raises(ValueError, match="reported: expected a decimal number"):
        Reported.parse(text)


@given((st.text(max_size=40) | st.text("0123456789.+-eE \n", max_size=12)).filter(lambda text: not LONG_EXPONENT.search(text)))
@example("1e-3")
@example("١٢")
def test_any_text_is_a_number_or_a_value_error(text):
    try:
        found = Reported.parse(text)
    except ValueError as error:
        assert repr(text) in str(error)  # noqa: PT017 - either outcome is right
    else:
        assert found.value == float(text)
        assert found.half_unit > 0


@given(NUMBERS)
def test_the_interval_is_half_a_unit_of_the_last_digit(text):
    found = Reported.parse(text)
    mantissa, _, exponent = text.lower().partition("e")
    places = len(mantissa.partition(".")[2])
    half = Fraction(1, 2) * Fraction(10) ** (int(exponent or 0) - places)
    assert found.value == float(Fraction(mantissa) * Fraction(10) ** int(exponent or 0))
    assert math.isclose(found.half_unit, half, rel_tol=1e-14)


@given(st.floats(1e-6, 1e6), st.integers(0, 12))
def test_a_printed_number_holds_what_was_printed(number, digits):
    found = Reported.parse(f"{number:.{digits}e}")
    assert abs(found.value - number) <= found.half_unit * (1 + 1e-9) + 1e-15 * number


def test_a_difference_is_uncertain_by_both_roundings():
    found = Reported.parse("0.0169") - Reported.parse("1.3e-4")
    assert found.value == pytest.approx(0.0169 - 0.00013, rel=1e-15)
    assert found.half_unit == pytest.approx(5e-5 + 5e-6, rel=1e-15)


def test_the_nearest_value_of_the_interval():
    found = Reported(0.5, 0.125)
    assert [found.nearest(target) for target in (0.1, 0.375, 0.4, 0.5, 0.625, 9.0)] == [0.375, 0.375, 0.4, 0.5, 0.625, 0.625]


def test_z_is_of_the_number_as_printed():
    assert Reported(0.5, 0.125).z((0.25, 0.0625)) == 4


def test_p_gives_the_rounding_the_benefit_of_the_doubt():
    found = Reported(0.5, 0.125)
    assert found.p((0.4, 1e-9)) == 1
    assert found.p((0.375, 1e-9)) == found.p((0.625, 1e-9)) == 1
    size = 0.25 * 0.75 / 0.05**2 - 1
    law = oracle.beta(0.25 * size, 0.75 * size)
    assert found.p((0.25, 0.05)) == pytest.approx(2 * law.sf(0.375), rel=1e-9)
    assert Reported(0.125, 0.0625).p((0.25, 0.05)) == pytest.approx(2 * law.cdf(0.1875), rel=1e-9)


def test_joint_p_is_fishers():
    values, nulls = [Reported(0.5, 0.125), Reported(0.125, 0.0625), Reported(0.25, 0.01)], [(0.25, 0.05)] * 3
    separate = [value.p(null) for value, null in zip(values, nulls, strict=True)]
    assert separate[2] == 1
    assert joint_p(values, nulls) == pytest.approx(oracle.combine_pvalues(separate).pvalue, rel=1e-9)
    with pytest.raises(ValueError, match="shorter"):
        joint_p(values, nulls[:2])
    with pytest.raises(ValueError, match="p_values: expected at least one"):
        joint_p([], [])


def test_the_line_is_five_sigma():
    assert pytest.approx(math.erfc(5 / math.sqrt(2)), rel=1e-3) == FIVE_SIGMA


# Sample fixed beforehand: 4 means of 280 squared cosines, printed with 3 digits; a null twice as wide lies more than 10 of its sd away.
PAIRS, MEANS = 280, 4


def null_at(width: int) -> list[tuple[float, float]]:
    return [(null_mso(width), math.sqrt(null_variance(width) / PAIRS))] * MEANS


@pytest.mark.parametrize("width", [32, 64, 100])
def test_the_width_that_gave_the_numbers_fits_and_its_double_does_not(width):
    generator = np.random.default_rng(width)
    u, v = generator.normal(size=(2, MEANS, PAIRS, width))
    cos2 = (u * v).sum(-1) ** 2 / (u * u).sum(-1) / (v * v).sum(-1)
    values = [Reported.parse(f"{mean:.2e}") for mean in cos2.mean(1)]
    candidates = range(width // 4, 4 * width + 1)
    fits = fitting_widths(values, null_at, candidates)
    assert width in fits
    assert all(p >= FITS for p in fits.values())
    assert set(fits).isdisjoint({width // 2, 2 * width})
    assert list(fits) == [w for w in candidates if joint_p(values, null_at(w)) >= FITS]
    assert joint_p(values, null_at(2 * width)) < FIVE_SIGMA
    assert fitting_widths(values, null_at, candidates, level=0.0).keys() == set(candidates)
    assert fitting_widths(values, null_at, []) == {}


@pytest.mark.parametrize("text", ["1e999", "1e400", "9e308", "1e-400", "1e-330", "\u0661\u0662"])
def test_numbers_beyond_a_float_are_refused(text):
    with pytest.raises(ValueError, match="reported: "):
        Reported.parse(text)

"""Sizes in bytes, and the name that was meant."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simgap.checks import format_bytes, nearest, parse_bytes
from simgap.specs import ACTIVATIONS, LayerSpec, RunSpec, field_names


@pytest.mark.parametrize(
    "text, size",
    [
        (10, 10),
        ("10", 10),
        (" 1 b ", 1),
        ("1KiB", 1024),
        ("1kb", 1000),
        ("1.5GB", 1_500_000_000),
        ("512MiB", 2**29),
        ("2 GiB", 2**31),
        ("2tib", 2**41),
    ],
)
def test_parse_bytes(text, size):
    assert parse_bytes(text) == size
    assert RunSpec(memory=text).memory_bytes == size


@pytest.mark.parametrize(
    "size, text",
    [(0, "0 bytes"), (999, "999 bytes"), (1024, "1 KiB"), (1536, "1.5 KiB"), (2**29, "512 MiB"), (1610612736, "1.5 GiB"), (2**41, "2 TiB")],
)
def test_format_bytes(size, text):
    assert format_bytes(size) == text


def test_format_bytes_never_shows_an_exponent():
    assert not [size for size in (1000, 1023, 1000 * 2**20, 1023 * 2**30, 5000 * 2**40) if "e" in format_bytes(size).split()[0]]


# Up to 9000 TB a size is a whole number below 2^53, which a float holds exactly.
@given(st.integers(1, 9000), st.sampled_from(["", "b", "KiB", "MB", "gib", "TB"]), st.sampled_from(["", " "]))
def test_parse_bytes_scales(count, unit, gap):
    assert parse_bytes(f"{count}{gap}{unit}") == count * parse_bytes(f"1{unit}")


@settings(max_examples=40)
@given(st.text(st.sampled_from("0123456789. bBkKmMgGtTi-+e\u0663\n"), max_size=8))
def test_parse_bytes_answers_or_says_why(text):
    try:
        answer: object = parse_bytes(text)
    except ValueError as error:
        answer = str(error)
    assert (isinstance(answer, int) and answer >= 1) or str(answer).startswith("memory: expected ")


def test_nearest():
    assert nearest("sillu", ACTIVATIONS) == "; did you mean 'silu'?"
    assert nearest("zzz", ACTIVATIONS) == ""


def test_nearest_knows_what_others_call_it():
    assert nearest("hidden_size", field_names(LayerSpec)) == "; did you mean 'd_model'?"
    assert nearest("--moe-intermediate-size", ["--d-ff", "--d-model"]) == "; did you mean '--d-ff'?"
    assert "d_model" not in nearest("hidden_size", ACTIVATIONS)

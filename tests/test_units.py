"""The number formats."""

import doctest
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelprof import units

DURATIONS = st.floats(min_value=1e-9, max_value=1e5)


def as_number(text):
    return float(text.split()[0].replace(",", "").rstrip("x"))


def test_examples():
    failed, attempted = doctest.testmod(units)
    assert attempted > 0
    assert failed == 0


@given(DURATIONS)
def test_a_duration_keeps_three_figures(seconds):
    number, symbol = units.duration(seconds).split()
    unit = {unit.symbol: unit.seconds for unit in units.TIME_UNITS}[symbol]
    assert as_number(number) * unit == pytest.approx(seconds, rel=5.1e-3)
    assert sum(character.isdigit() for character in number) >= 3


@given(DURATIONS)
def test_a_duration_needs_no_leading_zero(seconds):
    assert units.duration(seconds)[0] != "0"


@given(st.floats(min_value=1e-12, max_value=1e12))
def test_numbers_have_no_exponent(value):
    assert re.fullmatch(r"\d{1,3}(,\d{3})*(\.\d+)?", units.significant(value))


@given(st.lists(DURATIONS, min_size=1))
def test_a_column_has_the_unit_of_a_typical_value(durations):
    unit = units.column_unit([None, *durations])
    assert min(durations) < 1000 * unit.seconds or unit is units.SECOND
    assert max(durations) >= 0.99 * unit.seconds


def test_a_column_without_durations_has_a_unit():
    assert units.column_unit([None]) is units.SECOND


@given(st.floats(min_value=-50, max_value=50))
def test_a_percentage_shows_its_sign(fraction):
    text = units.percent(fraction)
    assert text[0] in "+-"
    assert "-0.0 %" not in text
    assert as_number(text) == pytest.approx(100 * fraction, abs=0.51)


@given(st.floats(min_value=0, max_value=1, exclude_min=True, exclude_max=True))
def test_a_part_is_neither_nothing_nor_the_whole(fraction):
    assert units.share(fraction) not in {"0 %", "0.0 %", "100 %", "100.0 %"}


@given(st.floats(min_value=1e-6, max_value=1e6))
def test_a_ratio_and_its_inverse_say_opposite_things(ratio):
    opposite = units.versus(1 / ratio).translate(str.maketrans({"f": "F"}))
    swapped = units.versus(ratio)
    assert ("faster" in swapped) == ("slower" in opposite)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (1023, "1,023 B"), (1024, "1.00 KiB"), (5 * 1024**5, "5,120 TiB")],
)
def test_sizes(size_bytes, text):
    assert units.size(size_bytes) == text

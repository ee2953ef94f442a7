"""The page about the suite says what the suite shows."""

from collections import Counter

import pytest

from tests.conformance.behaviours import declared
from tests.conformance.report import PAGE, expected, render

pytestmark = pytest.mark.about_the_suite


def test_the_page_lists_exactly_the_behaviours_that_the_suite_shows() -> None:
    assert PAGE.read_text() == render({one: expected(one) for one in declared()}), "`make conformance` writes it anew"


def test_no_two_behaviours_of_a_group_have_the_same_sentence() -> None:
    twice = [text for text, count in Counter((one.group, one.statement) for one in declared()).items() if count > 1]
    assert not twice

"""Reasons are worded once."""

import re

import pytest

from proxy.policy.reasons import Reason

FWD = {"", "bypass", "method", "uri-miss", "vary-miss", "miss", "request", "stale", "partial"}


@pytest.mark.parametrize("reason", Reason)
def test_reason_has_a_token_a_sentence_and_a_place_in_rfc_9211(reason: Reason) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9-]*", reason.token)
    assert {member.value: member for member in Reason}[reason.token] is reason
    assert re.fullmatch(r"[A-Z].*\.", reason.sentence)
    assert re.fullmatch(r"(RFC \d{4} §[\d.]+)?", reason.clause)
    assert reason.fwd in FWD


def test_each_reason_is_told_from_the_others() -> None:
    assert len({reason.token for reason in Reason}) == len(Reason)

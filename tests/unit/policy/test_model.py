"""The nouns of the policy."""

import pytest

from proxy.http import etag
from proxy.policy import model
from proxy.policy.model import DEFAULT_OPTIONS, Hit, Miss, Revalidate, StaleHit, StoreVerdict, Unsatisfiable
from proxy.policy.reasons import Reason


def test_verdict_is_true_when_it_stores() -> None:
    assert StoreVerdict(store=True, reason=Reason.STORABLE)
    assert not StoreVerdict(store=False, reason=Reason.NO_STORE)


def test_entity_tag_is_the_one_of_http() -> None:
    assert model.EntityTag is etag.EntityTag


def test_defaults_are_those_of_a_shared_cache_that_obeys() -> None:
    switches = [name for name in DEFAULT_OPTIONS.__slots__ if name.startswith("honour_")]
    assert len(switches) == 8
    assert all(getattr(DEFAULT_OPTIONS, name) for name in switches)
    assert DEFAULT_OPTIONS.default_ttl is None
    assert not DEFAULT_OPTIONS.store_set_cookie


@pytest.mark.parametrize("kind", [Hit, StaleHit, Revalidate, Miss, Unsatisfiable])
def test_every_decision_carries_a_reason(kind: type) -> None:
    assert "reason" in kind.__slots__  # type: ignore[attr-defined]  # slots are of the class

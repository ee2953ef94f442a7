"""Answers from stored responses that are not in memory, given past the pipeline, and what the cache says about that.

Theory of operation. A kept reply (`proxy.pipeline.replay`) answers one head, as long as its stored response is in
memory. Many more responses are in the second tier, each asked for now and then, and what the pipeline does for one it
does for all that are like it: whose requests differ in the target alone (and in fields that nobody heeds), and whose
stored fields differ in the values of `OWN_FIELDS` alone. The first such answer goes through the pipeline. The cache
puts its `RecallTerms` on the exchange, every plugin that was on the way gives a `PassagePart` that is good for any
target, and from then on the server asks the terms for the stored response and fills its values in.
"""

from collections.abc import Callable, Hashable, Sequence
from enum import Enum
from typing import Final, Protocol, TypeAlias, final


class Soon(Enum):
    """What there is to say while the second tier is asked."""

    SOON = "only `ask` can tell"


SOON: Final = Soon.SOON  # by the class it takes 0.2 µs to get at


@final
class Recalled:
    """A stored response that answers a request now.

    Args:
        kind: equal for those that are alike.
        values: of its own fields, see `RecallTerms.own`, and behind them those that are made anew each time, in the
            order of `RecallTerms.made`; as they are sent.
    """

    __slots__ = ("body", "kind", "values")

    def __init__(self, kind: Hashable, values: Sequence[bytes], body: bytes) -> None:
        self.kind = kind
        self.values = values
        self.body = body


Done: TypeAlias = Callable[[Recalled | None], None]


class RecallTerms(Protocol):
    """Finds what answers requests like one that was answered from the second tier.

    Attributes:
        first: that answer.
        own: the lower-case names of its own fields, in the order of `Recalled.values`; of `OWN_FIELDS` alone.
        made: the names of the fields that are made anew each time.
    """

    @property
    def first(self) -> Recalled:
        """See the class."""
        ...

    @property
    def own(self) -> Sequence[str]:
        """See the class."""
        ...

    @property
    def made(self) -> Sequence[str]:
        """See the class."""
        ...

    def find(self, target: str) -> Recalled | Soon | None:
        """What answers such a request for `target`, counted as used; None: that is for the pipeline to say."""
        ...

    def ask(self, target: str, done: Done) -> bool:
        """Have `done` called, once, with the answer that was to come `SOON`; whether that is going to happen."""
        ...

"""Answers from stored responses that are not in memory, given past the pipeline, and what the cache says about that.

Theory of operation. A kept reply (`proxy.pipeline.replay`) answers one head, as long as its stored response is in
memory. Many more responses are in the second tier, each asked for now and then, and what the pipeline does for one it
does for all that are like it: whose requests differ in the target alone (and in fields that nobody heeds), and whose
stored fields differ in the values of `OWN_FIELDS` alone. The first such answer goes through the pipeline. The cache
puts its `RecallTerms` on the exchange, every plugin that was on the way gives a `PassagePart` that is good for any
target, and from then on the server asks the terms for the stored response and fills its values in.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Protocol, TypeAlias

Recalled: TypeAlias = tuple[Hashable, Sequence[bytes], bytes]
"""A stored response that answers a request now: its kind, values, body. Of an object to make would take 0.3 µs.

Kinds are equal for those that are alike. The values are those of its own fields, see `RecallTerms.own`, and behind them
those that are made anew each time, in the order of `RecallTerms.made`; as they are sent.
"""

Done: TypeAlias = Callable[[Recalled | None], None]

Ask: TypeAlias = Callable[[Done], bool]
"""Has the second tier asked, and `Done` called, once, with what it answers; whether that is going to happen."""


class RecallTerms(Protocol):
    """Finds what answers requests like one that was answered from the second tier.

    Attributes:
        first: that answer; whoever has no use for its body any more sets it without one.
        own: the lower-case names of its own fields, in the order of `Recalled.values`; of `OWN_FIELDS` alone.
        made: the names of the fields that are made anew each time.
    """

    first: Recalled

    @property
    def own(self) -> Sequence[str]:
        """See the class."""
        ...

    @property
    def made(self) -> Sequence[str]:
        """See the class."""
        ...

    def find(self, target: str) -> Recalled | Ask | None:
        """What answers such a request for `target`, counted as used, or how to ask; None: that is for the pipeline to
        say.
        """
        ...

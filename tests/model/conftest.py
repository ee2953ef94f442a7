"""How hard the model is tried: `--hypothesis-profile=thorough` takes minutes instead of seconds."""

from hypothesis import settings

settings.register_profile("thorough", max_examples=2_000, stateful_step_count=80, deadline=None)

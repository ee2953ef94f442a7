"""What holds for every test."""

from hypothesis import settings

# Examples take as long as they take on a machine that has other work; `timeout` in pyproject.toml bounds a whole test.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

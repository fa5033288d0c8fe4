"""Laws are not timed: a busy machine is no counter-example."""

from hypothesis import settings

settings.register_profile("project", deadline=None)
settings.load_profile("project")
# For `make fuzz`.
settings.register_profile("long", deadline=None, max_examples=20_000)

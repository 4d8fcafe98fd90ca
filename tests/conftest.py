"""What all tests share."""

from hypothesis import settings

# Examples are bounded by count; a wall-clock limit would fail on a busy machine.
settings.register_profile("prelude", deadline=None, print_blob=True)
settings.load_profile("prelude")

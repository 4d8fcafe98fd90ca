"""One compiled program per bucket: capture, pool, timing, compile cache."""

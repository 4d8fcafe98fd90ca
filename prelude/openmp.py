"""How OpenMP threads wait: decided by environment variables that are read once, before torch."""

import os
import sys

# GNU's runtime spins for milliseconds at every barrier while it believes to have the cores to
# itself. A server shares them with its API process and the compiling child; a thread that spins
# for one that is not running makes steps several times slower. A thousand turns are some
# microseconds: benchmarks/openmp_wait.py has what that costs and wins. Our CPU kernels have threads
# of their own (kernels/cpu/team.h); left to OpenMP are torch's, and the loops of large steps.
SPIN_COUNT = "1000"


def share_cores() -> None:
    """Make waiting threads give up their core soon, in this process and those it starts, unless
    the user's environment says how they shall wait. Has no effect on a torch already loaded."""
    if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)

"""``python -m prelude`` is the ``prelude`` command."""

import sys

from prelude.cli import main

if __name__ == "__main__":
    sys.exit(main())

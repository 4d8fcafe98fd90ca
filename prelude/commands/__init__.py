"""The sub-commands of ``prelude``, one module each with ``run(argv) -> exit code``."""

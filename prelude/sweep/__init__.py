"""Sweeps: many points of a configuration, run in worker processes, in one table and one report."""

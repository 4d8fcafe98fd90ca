"""The step loop in its own process: plan, run, commit."""

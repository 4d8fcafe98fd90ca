"""Other engines on the same weights, cores and prompts, turn by turn with ours."""

"""Both sides of the process boundary as their callers see them."""

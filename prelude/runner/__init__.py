"""Executes plans: slots, input tensors, launches, sampling."""

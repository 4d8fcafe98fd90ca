"""Hydra configuration: the YAML tree and the dataclasses that type it."""

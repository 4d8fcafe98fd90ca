"""Decoder definitions and checkpoint loading."""

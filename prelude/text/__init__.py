"""Strings on one side, token ids on the other: tokenizer, chat template, stop strings."""

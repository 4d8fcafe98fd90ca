"""The bundled demo model: task generators, tokenizer, trainer and evaluation."""

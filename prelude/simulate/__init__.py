"""Traffic through the engine's own batcher on a price list: no model, no device, no waiting."""

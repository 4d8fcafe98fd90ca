"""Paged KV memory as the batcher sees it: blocks, prefix index, layout. No torch in the pool."""

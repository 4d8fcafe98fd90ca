"""What torch.compile must know about a decoder layer's inputs, so that two programs (one token,
any number of tokens) serve every step of the engine."""

from torch import Tensor


def mark_shapes(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    kv: Tensor,
    cu_q: Tensor,
    ctx_lens: Tensor,
    block_tables: Tensor,
    slot_mapping: Tensor,
) -> None:
    """Declare which sizes vary, on the arguments of a compiled layer's first calls.

    Call it with the arguments after the layer, once with two or more tokens and once with one
    (torch specialises size one, which is what a single decode wants); later calls need no marks.
    Rows and table width are unbacked: they only pass through to the attention ops, so one row is
    no special case and equal counts of rows and tokens create no guard. The pool's shape is fixed.
    """
    # Imported here: it takes a second, and eager serving never needs it.
    import torch._dynamo as dynamo
    from torch._dynamo.decorators import mark_unbacked

    for tensor in (x, cos, sin, slot_mapping):
        dynamo.maybe_mark_dynamic(tensor, 0)
    for tensor in (cu_q, ctx_lens, block_tables):
        mark_unbacked(tensor, 0)
    mark_unbacked(block_tables, 1)
    dynamo.mark_static(kv)

"""What no engine of this size could ever serve is refused when it arrives."""

from prelude.types.errors import RequestError
from prelude.types.request import Request

_MAX_ENDS = 48  # what min_tokens forbids takes room on the device, beside the model's own ends


def validate(request: Request, max_len: int, vocab_size: int) -> None:
    """Raise ``RequestError`` if the prompt does not fit into a context of ``max_len`` tokens, or
    a token id into a vocabulary of ``vocab_size``."""
    prompt, params = request.prompt_ids, request.params
    if not prompt:
        raise RequestError("prompt: must have at least one token")
    if len(prompt) >= max_len:
        raise RequestError(
            f"prompt: {len(prompt)} tokens leave no room for an answer in a context of "
            f"{max_len} tokens; shorten the prompt or raise model.max_len"
        )
    if not 0 <= min(prompt) <= max(prompt) < vocab_size:
        raise RequestError(f"prompt: token ids must be between 0 and {vocab_size - 1}")
    if request.embeds and (params.n, params.max_tokens) != (1, 1):
        raise RequestError("embeds: an embedding is one choice of max_tokens=1")
    if params.min_tokens and len(params.stop_token_ids) > _MAX_ENDS:
        raise RequestError(f"stop_token_ids: at most {_MAX_ENDS} where there are min_tokens")
    for name, ids in (
        ("logit_bias", params.logit_bias.keys()),
        ("stop_token_ids", params.stop_token_ids),
        ("allowed_token_ids", params.allowed_token_ids),
    ):
        if any(not 0 <= token_id < vocab_size for token_id in ids):
            raise RequestError(f"{name}: token ids must be between 0 and {vocab_size - 1}")

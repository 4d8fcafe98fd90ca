"""The bytes behind every token id.

Byte-level BPE writes each byte as one printable character; SentencePiece models write a space as
U+2581 and a raw byte as ``<0x0A>``. Logprobs, incremental decoding and grammars want the bytes.
"""

import json

import tokenizers


class Vocabulary:
    """``size`` is one more than the largest id; ``added_ids`` are those of tokens that stand beside
    the model's own vocabulary; ``byte_level`` says that decoding is nothing but
    joining token bytes, which is what makes incremental decoding a table look-up; ``longest`` is
    the number of bytes of the longest token."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        added = backend.get_added_tokens_decoder()
        tokens: dict[str, int] = backend.get_vocab(with_added_tokens=True)
        self.byte_level = _is_byte_level(backend)
        self.size = max(tokens.values(), default=-1) + 1
        self.added_ids = {token.content: i for i, token in added.items()}
        self.special_ids = frozenset(i for i, token in added.items() if token.special)
        self.byte_run_ids = frozenset(
            i for token, i in tokens.items() if not self.byte_level and _raw_byte(token) is not None
        )
        self._bytes: dict[int, bytes] = {}
        alphabet = _byte_alphabet()
        for token, i in tokens.items():
            if self.byte_level:
                self._bytes[i] = _from_alphabet(token, alphabet)
            elif i in added:
                self._bytes[i] = token.encode("utf-8")
            else:
                self._bytes[i] = _from_pieces(token)

        self.longest = max(map(len, self._bytes.values()), default=0)

    def __contains__(self, token_id: int) -> bool:
        return token_id in self._bytes

    def token_bytes(self, token_id: int) -> bytes:
        """Raises ``ValueError`` for an id the tokenizer does not know (embeddings are padded)."""
        try:
            return self._bytes[token_id]
        except KeyError:
            raise ValueError(f"token id {token_id} is not in the vocabulary") from None

    def known_bytes(self, token_id: int) -> bytes:
        """Like ``token_bytes``, but an unknown id prints nothing, as in ``decode``."""
        return self._bytes.get(token_id, b"")


def _is_byte_level(backend: tokenizers.Tokenizer) -> bool:
    decoder = json.loads(backend.decoder.__getstate__()) if backend.decoder is not None else {}
    if decoder.get("type") == "Sequence" and len(decoder["decoders"]) == 1:
        decoder = decoder["decoders"][0]
    return bool(decoder.get("type") == "ByteLevel")


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable character for each byte: itself where printable, else U+0100 and up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(0x100 + n): byte for n, byte in enumerate(hidden)}


def _from_alphabet(token: str, alphabet: dict[str, int]) -> bytes:
    """A token with any character outside the alphabet stands for itself, as in the decoder."""
    try:
        return bytes(alphabet[char] for char in token)
    except KeyError:
        return token.encode("utf-8")


def _raw_byte(token: str) -> int | None:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return int(token[3:5], 16)
        except ValueError:
            return None
    return None


def _from_pieces(token: str) -> bytes:
    byte = _raw_byte(token)
    return bytes((byte,)) if byte is not None else token.replace("\u2581", " ").encode("utf-8")

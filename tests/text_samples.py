"""Small tokenizers of the two common kinds, written to disk as checkpoints carry them."""

import json
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend
from tokenizers.processors import TemplateProcessing

from prelude.text.tokenizer import Tokenizer

CHAT_TEMPLATE = """\
{%- for message in messages %}
    {%- if message.role not in ['system', 'user', 'assistant'] %}
        {{- raise_exception('Unexpected role ' + message.role) }}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""

_CORPUS = (
    "the quick brown fox jumps over the lazy dog. The end of the story is not the end.",
    "Hello world, hello there! 123 456. def f(x):\n    return x + 1\n",
    "déjà vu, naïve café, 日本語 の テキスト, emoji 😀 👩‍👩‍👧",
)


@cache
def byte_level_folder() -> Path:
    """Byte-level BPE with special (chat marks) and added, not special (think marks) tokens."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(_CORPUS, trainer)
    for text in ("<|endoftext|>", "<|im_start|>", "<|im_end|>"):
        backend.add_special_tokens([AddedToken(text, special=True, normalized=False)])
    backend.add_tokens([AddedToken(t, normalized=False) for t in ("<think>", "</think>", "日本")])
    return _write(
        backend,
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "chat_template": CHAT_TEMPLATE,
        },
        {"eos_token_id": [backend.token_to_id("<|im_end|>"), backend.token_to_id("<|endoftext|>")]},
    )


@cache
def metaspace_folder() -> Path:
    """SentencePiece style: spaces as U+2581, raw bytes as fallback, a bos token put in front."""
    specials = ["<unk>", "<s>", "</s>"]
    raw_bytes = [f"<0x{byte:02X}>" for byte in range(256)]
    backend = Backend(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=[*specials, *raw_bytes], show_progress=False
    )
    backend.train_from_iterator(_CORPUS[:2], trainer)
    bare = json.loads(backend.to_str())  # the trainer made special tokens of the raw bytes
    bare["added_tokens"] = [token for token in bare["added_tokens"] if token["id"] < 3]
    backend = Backend.from_str(json.dumps(bare))
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": {"content": "<s>", "__type": "AddedToken"},
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    return _write(backend, config, {"eos_token_id": 2})


@cache
def byte_level() -> Tokenizer:
    return Tokenizer.load(byte_level_folder())


@cache
def metaspace() -> Tokenizer:
    return Tokenizer.load(metaspace_folder())


def _write(backend: Backend, config: dict[str, Any], generation: dict[str, Any]) -> Path:
    folder = Path(mkdtemp(prefix="tokenizer-"))
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder

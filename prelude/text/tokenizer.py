"""Text to token ids and back, for the server and for ``LLM``, without transformers.

Everything comes from the checkpoint's own files: ``tokenizer.json`` does the work (the Rust
library releases the GIL), the other files name the special tokens, the chat template and the ids
that end a text.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import tokenizers
import tokenizers.normalizers

from prelude.text.chat_template import ChatTemplate, Message
from prelude.text.files import chat_templates, eos_token_ids, read_json, special_tokens
from prelude.text.vocabulary import Vocabulary

_MANY_IDS = 1024
_LOSSLESS = (type(None), tokenizers.normalizers.NFC)


class Tokenizer:
    """Made by ``Tokenizer.load``. Safe to use from several threads.

    ``vocabulary`` knows every token's bytes; ``backend`` is the library's own object.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        templates: Mapping[str, str],
        special: Mapping[str, str],
        eos_ids: Iterable[int],
    ) -> None:
        self.backend = backend
        self.vocabulary = Vocabulary(backend)
        self.special_tokens = dict(special)
        self._templates = {name: ChatTemplate(text, special) for name, text in templates.items()}
        named = backend.token_to_id(special["eos_token"]) if "eos_token" in special else None
        ids = [*eos_ids, *([] if named is None else [named])]
        self._eos_ids = tuple(sorted(set(ids)))

    @classmethod
    def load(cls, folder: Path, *, chat_template: Path | None = None) -> Self:
        """Read a Hugging Face ``folder``; ``chat_template`` replaces its template.

        Raises ``ValueError`` saying what is missing or broken.
        """
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ValueError(
                f"{folder} has no tokenizer.json. Convert the tokenizer once with transformers: "
                f"AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
            )
        config = read_json(folder / "tokenizer_config.json")
        special = special_tokens(config, read_json(folder / "special_tokens_map.json"))
        templates = chat_templates(folder, config, chat_template)
        return cls(_read_backend(path), templates, special, eos_token_ids(folder))

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Every id that ends a text, in order."""
        return self._eos_ids

    @property
    def vocab_size(self) -> int:
        """One more than the largest token id."""
        return self.vocabulary.size

    @property
    def has_chat_template(self) -> bool:
        return bool(self._templates)

    def template_mentions(self, word: str) -> bool:
        """Whether any chat template's source has ``word`` in it, such as a role's name."""
        return any(word in template.source for template in self._templates.values())

    def added_id(self, text: str) -> int | None:
        """The id of a token that was added for ``text``, if there is one: nothing else spells it,
        whether it is special or not."""
        return self.vocabulary.added_ids.get(text)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Ids of ``text``. tokenizer.json alone says which special tokens go around it."""
        # Of a batch, for only that releases the GIL; fast, for nobody asks for offsets.
        (found,) = self.backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        ids: list[int] = found.ids
        return ids

    def max_chars(self, num_tokens: int) -> int | None:
        """More characters cannot come to so few tokens, for each stands for some bytes: NFC leaves
        as many bytes as there were characters, or more. None where anything may be dropped."""
        if not self.vocabulary.byte_level or type(self.backend.normalizer) not in _LOSSLESS:
            return None
        return num_tokens * self.vocabulary.longest

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        listed = list(ids)
        if len(listed) > _MANY_IDS:  # of a batch, for only that releases the GIL
            texts: list[str] = self.backend.decode_batch([listed], skip_special_tokens)
            return texts[0]
        text: str = self.backend.decode(listed, skip_special_tokens=skip_special_tokens)
        return text

    def token_bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes that a token stands for, which may be part of a character."""
        return self.vocabulary.token_bytes(token_id)

    def is_special(self, token_id: int) -> bool:
        """Whether ``decode`` leaves the token out unless told otherwise."""
        return token_id in self.vocabulary.special_ids

    def encode_chat(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """``render_chat`` as token ids: the template writes its own special tokens."""
        text = self.render_chat(
            messages,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            tools=tools,
            template_kwargs=template_kwargs,
        )
        return self.encode(text, add_special_tokens=False)

    def render_chat(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt the chat template writes for ``messages`` (dicts with role and content).

        Raises ``ValueError`` if there is no template or it refuses the messages.
        """
        return self._template(tools is not None).render(
            messages,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            tools=tools,
            variables=template_kwargs,
        )

    def _template(self, with_tools: bool) -> ChatTemplate:
        if with_tools and "tool_use" in self._templates:
            return self._templates["tool_use"]
        if "default" in self._templates:
            return self._templates["default"]
        if self._templates:
            names = ", ".join(sorted(self._templates))
            raise ValueError(f"this model has chat templates {names} but no default one")
        raise ValueError(
            "this model has no chat template: use /v1/completions, or set model.chat_template "
            "to a Jinja file"
        )


def _read_backend(path: Path) -> tokenizers.Tokenizer:
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"{path} cannot be read: {error}") from error
    backend.no_truncation()
    backend.no_padding()
    return backend

"""The tokenizer against transformers on the same files: ids, text and prompts must be equal."""

import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from prelude.text.tokenizer import Tokenizer
from tests.text_samples import (
    CHAT_TEMPLATE,
    byte_level,
    byte_level_folder,
    metaspace,
    metaspace_folder,
)

KINDS = [byte_level_folder, metaspace_folder]
TEXTS = [
    "",
    "Hello world",
    "  two spaces, trailing ",
    "a<|im_end|>b<think>c</think>",
    "日本語 😀 naïve\n\n\ttabs",
]
CHAT: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi <b>&amp;</b> there"},
    {"role": "assistant", "content": "Hello! ", "tool_calls": None},
    {"role": "user", "content": "Bye"},
]


def reference(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


def copy_with(folder: Path, target: Path, **config: Any) -> Path:
    """A copy of a tokenizer folder with keys of tokenizer_config.json changed; None removes."""
    shutil.copytree(folder, target)
    path = target / "tokenizer_config.json"
    merged = {**json.loads(path.read_text()), **config}
    path.write_text(json.dumps({k: v for k, v in merged.items() if v is not None}))
    return target


@pytest.mark.parametrize("make_folder", KINDS)
@pytest.mark.parametrize("special", [True, False])
def test_encode_and_decode_equal_transformers(make_folder: Any, special: bool) -> None:
    ours, theirs = Tokenizer.load(make_folder()), reference(make_folder())
    for text in TEXTS:
        ids = ours.encode(text, add_special_tokens=special)
        assert ids == theirs.encode(text, add_special_tokens=special)
        assert ours.decode(ids, special) == theirs.decode(ids, skip_special_tokens=special)


def test_other_threads_go_on_while_a_long_text_is_encoded() -> None:
    tokenizer, text = byte_level(), " ".join(f"word{n}" for n in range(30_000))
    thread = threading.Thread(target=tokenizer.encode, args=(text,))
    thread.start()
    turns = 0
    while thread.is_alive():
        time.sleep(1e-3)
        turns += 1
    assert turns > 5


@pytest.mark.parametrize("make_folder", KINDS)
@pytest.mark.parametrize("add_bos", [True, False])
def test_the_post_processor_rules_over_add_bos_token(
    make_folder: Any, add_bos: bool, tmp_path: Path
) -> None:
    folder = copy_with(make_folder(), tmp_path / "t", add_bos_token=add_bos)
    ids = Tokenizer.load(folder).encode("Hello")
    assert ids == reference(folder).encode("Hello")
    assert ids == Tokenizer.load(make_folder()).encode("Hello")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"add_generation_prompt": False},
        {"template_kwargs": {"enable_thinking": False}},
        {"template_kwargs": {"enable_thinking": True, "unused": 1}},
    ],
)
def test_chat_equals_transformers(options: dict[str, Any]) -> None:
    theirs = reference(byte_level_folder())
    flat = {"add_generation_prompt": True, **options}
    flat |= flat.pop("template_kwargs", {})
    expected = theirs.apply_chat_template(CHAT, tokenize=False, **flat)
    assert byte_level().render_chat(CHAT, **options) == expected
    ids = theirs.apply_chat_template(CHAT, tokenize=True, return_dict=False, **flat)
    assert byte_level().encode_chat(CHAT, **options) == ids


@pytest.mark.parametrize("content", ["The answer is", "The answer is ", "  spaced"])
def test_continued_message_equals_transformers(content: str) -> None:
    chat = [*CHAT, {"role": "assistant", "content": content}]
    expected = reference(byte_level_folder()).apply_chat_template(
        chat, tokenize=False, continue_final_message=True
    )
    ours = byte_level().render_chat(chat, add_generation_prompt=False, continue_final_message=True)
    assert ours == expected
    assert chat[-1]["content"] == content


TEMPLATES = [
    "{{ messages | tojson }}",
    "{{ messages | tojson(indent=2, sort_keys=true) }}",
    "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{{ m.content }}\n"
    "    {% endfor %}x",
    "{{ bos_token }}{{ eos_token }}{% generation %}{{ messages[0].content }}{% endgeneration %}",
    "{{ strftime_now('%Y') }}{{ dict(a=1).a }}{{ dict.fromkeys('ab') }}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}"
    "{{ ns.n }}",
    "{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}",
]


@pytest.mark.parametrize("template", TEMPLATES)
def test_environment_equals_transformers(template: str, tmp_path: Path) -> None:
    folder = copy_with(metaspace_folder(), tmp_path / "t", chat_template=template)
    expected = reference(folder).apply_chat_template(
        CHAT, tokenize=False, add_generation_prompt=True
    )
    assert Tokenizer.load(folder).render_chat(CHAT) == expected


def test_reasoning_is_passed_under_every_name(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m.reasoning_content }}|{{ m.thinking }};{% endfor %}"
    folder = copy_with(metaspace_folder(), tmp_path / "t", chat_template=template)
    chat = [
        {"role": "assistant", "content": "x", name: "why"} for name in ("reasoning", "thinking")
    ]
    expected = reference(folder).apply_chat_template(chat, tokenize=False)
    assert Tokenizer.load(folder).render_chat(chat, add_generation_prompt=False) == expected


def test_content_parts_can_be_continued(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}!{% endfor %}"
    )
    folder = copy_with(metaspace_folder(), tmp_path / "t", chat_template=template)
    chat = [{"role": "assistant", "content": [{"type": "text", "text": "one"}]}]
    text = Tokenizer.load(folder).render_chat(
        chat, add_generation_prompt=False, continue_final_message=True
    )
    assert text == "one"


def test_named_templates(tmp_path: Path) -> None:
    several = [
        {"name": "default", "template": "plain"},
        {"name": "tool_use", "template": "{{ tools | length }} tools"},
    ]
    tokenizer = Tokenizer.load(copy_with(metaspace_folder(), tmp_path / "t", chat_template=several))
    assert tokenizer.render_chat(CHAT) == "plain"
    assert tokenizer.render_chat(CHAT, tools=[{"type": "function"}]) == "1 tools"


def test_template_file_wins_and_can_be_replaced(tmp_path: Path) -> None:
    folder = copy_with(metaspace_folder(), tmp_path / "t", chat_template="from config")
    (folder / "chat_template.jinja").write_text("from file")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("with tools")
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.render_chat(CHAT) == "from file"
    assert tokenizer.render_chat(CHAT, tools=[]) == "with tools"
    (tmp_path / "own.jinja").write_text("own")
    own = Tokenizer.load(folder, chat_template=tmp_path / "own.jinja")
    assert own.render_chat(CHAT) == "own"
    with pytest.raises(ValueError, match=r"none\.jinja does not exist"):
        Tokenizer.load(folder, chat_template=tmp_path / "none.jinja")


@pytest.mark.parametrize(
    ("chat", "options", "message"),
    [
        ([], {}, "at least one message"),
        ([{"role": "tool", "content": "x"}], {}, "Unexpected role tool"),
        ([{"role": "user"}], {}, "chat template"),
        ([{"role": "user", "content": 3}], {}, "cannot render"),
        (CHAT, {"continue_final_message": True}, "add_generation_prompt"),
        (
            [{"role": "assistant"}],
            {"continue_final_message": True, "add_generation_prompt": False},
            "no content to continue",
        ),
        (
            [{"role": "assistant", "content": [{"type": "x"}]}],
            {"continue_final_message": True, "add_generation_prompt": False},
            "no text to continue",
        ),
    ],
)
def test_bad_chats_say_why(chat: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        byte_level().render_chat(chat, **options)


@pytest.mark.parametrize(
    ("template", "message"),
    [("no fields", "does not read"), ("content dropped", "drops or changes")],
)
def test_templates_that_cannot_continue(template: str, message: str, tmp_path: Path) -> None:
    folder = copy_with(metaspace_folder(), tmp_path / "t", chat_template=template)
    chat = [{"role": "assistant", "content": "half a"}]
    with pytest.raises(ValueError, match=message):
        Tokenizer.load(folder).render_chat(
            chat, add_generation_prompt=False, continue_final_message=True
        )


def test_the_sandbox_holds(tmp_path: Path) -> None:
    for template in ("{{ messages.append(1) }}", "{{ ''.__class__.__mro__ }}{{ x.y.z }}"):
        folder = copy_with(metaspace_folder(), tmp_path / str(len(template)))
        (folder / "chat_template.jinja").write_text(template)
        with pytest.raises(ValueError, match="chat template refuses"):
            Tokenizer.load(folder).render_chat(CHAT)


def test_no_template_and_broken_template(tmp_path: Path) -> None:
    assert not metaspace().has_chat_template
    assert byte_level().has_chat_template
    with pytest.raises(ValueError, match="no chat template"):
        metaspace().encode_chat(CHAT)
    with pytest.raises(ValueError, match="does not compile"):
        Tokenizer.load(copy_with(metaspace_folder(), tmp_path / "t", chat_template="{% if %}"))
    named = [{"name": "rag", "template": "x"}]
    tokenizer = Tokenizer.load(copy_with(metaspace_folder(), tmp_path / "u", chat_template=named))
    with pytest.raises(ValueError, match="templates rag but no default"):
        tokenizer.encode_chat(CHAT)


def test_missing_and_broken_files_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no tokenizer\.json\. Convert"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(ValueError, match="JSON object"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("nope")
    with pytest.raises(ValueError, match="not valid JSON"):
        Tokenizer.load(tmp_path)


def test_end_ids_are_the_union_of_all_files(tmp_path: Path) -> None:
    folder = copy_with(byte_level_folder(), tmp_path / "t", eos_token="<|endoftext|>")
    (folder / "generation_config.json").write_text('{"eos_token_id": 7}')
    (folder / "config.json").write_text('{"eos_token_id": [7, 9]}')
    tokenizer = Tokenizer.load(folder)
    named = tokenizer.encode("<|endoftext|>")[0]
    assert tokenizer.eos_ids == (7, 9, named)
    assert tokenizer.vocab_size == tokenizer.backend.get_vocab_size(with_added_tokens=True)
    assert tokenizer.is_special(named)
    assert not tokenizer.is_special(tokenizer.encode("<think>")[0])


@given(st.text())
def test_token_bytes_join_to_the_text(text: str) -> None:
    def joined(tokenizer: Tokenizer) -> str:
        ids = tokenizer.encode(text, add_special_tokens=False)
        return b"".join(tokenizer.token_bytes(i) for i in ids).decode()

    assert joined(byte_level()) == text
    # A metaspace tokenizer puts one space before every text, and U+2581 is its space.
    assert joined(metaspace()) == (" " + text.replace("\u2581", " ") if text else "")


def test_unknown_ids() -> None:
    with pytest.raises(ValueError, match="not in the vocabulary"):
        byte_level().token_bytes(10**6)
    assert byte_level().vocabulary.known_bytes(10**6) == b""


def test_template_constant_is_what_the_folder_carries() -> None:
    config = json.loads((byte_level_folder() / "tokenizer_config.json").read_text())
    assert config["chat_template"] == CHAT_TEMPLATE


def test_text_leaves_torch_and_transformers_alone() -> None:
    code = (
        "import sys, prelude.text.choice; "
        "print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

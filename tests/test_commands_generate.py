"""``prelude generate`` on a small random checkpoint: the text of ``LLM``, on stdout."""

import io
from pathlib import Path

import pytest

from prelude.cli import main
from prelude.llm import LLM
from prelude.types.request import SamplingParams
from tests.model_samples import save_checkpoint_with_tokenizer

Capture = pytest.CaptureFixture[str]
SETTINGS = {"graphs.capture": "eager", "runner.threads": 1, "cache.num_blocks": 64}
OVERRIDES = [f"{name}={value}" for name, value in SETTINGS.items()]
SHORT = ["sampling=greedy", "sampling.max_tokens=8"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("generate") / "small"
    save_checkpoint_with_tokenizer(path)
    return path


def generate(folder: Path, *argv: str) -> int:
    return main(["generate", f"model.path={folder}", *OVERRIDES, *argv])


def expected(folder: Path, prompt: object, params: SamplingParams) -> str:
    llm = LLM(folder, **SETTINGS)
    try:
        (completion,) = llm.generate(prompt, params)  # type: ignore[arg-type]
    finally:
        llm.close()
    return completion.text + "\n"


GREEDY = SamplingParams(temperature=0.0, max_tokens=8)


def test_the_text_is_that_of_the_library(folder: Path, capsys: Capture) -> None:
    assert generate(folder, "-p", "hello world", *SHORT) == 0
    out = capsys.readouterr().out
    assert out == expected(folder, "hello world", GREEDY)
    assert len(out) > 1


def test_the_prompt_may_come_from_stdin(
    folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\nworld"))
    assert generate(folder, *SHORT) == 0
    assert capsys.readouterr().out == expected(folder, "hello\nworld", GREEDY)


def test_chat_uses_the_template(folder: Path, capsys: Capture) -> None:
    template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}>"
    (folder / "own.jinja").write_text(template)
    chosen = [*SHORT, f"model.chat_template={folder / 'own.jinja'}"]
    assert generate(folder, "--chat", "-p", "hi", *chosen) == 0
    assert capsys.readouterr().out == expected(folder, "[user]hi>", GREEDY)


def test_the_checkpoints_own_sampling_is_used(folder: Path, capsys: Capture) -> None:
    path = folder / "generation_config.json"
    before = path.read_text() if path.exists() else None
    path.write_text('{"temperature": 0.0, "repetition_penalty": 1.9}')
    try:
        assert generate(folder, "-p", "hello", "sampling.max_tokens=8") == 0
        params = SamplingParams(temperature=0.0, repetition_penalty=1.9, max_tokens=8)
        assert capsys.readouterr().out == expected(folder, "hello", params)
    finally:
        if before is None:
            path.unlink()
        else:
            path.write_text(before)


def test_what_cannot_be_served_is_one_line(folder: Path, capsys: Capture) -> None:
    assert generate(folder, "-p", "x" * 5000, *SHORT) == 2
    err = capsys.readouterr().err.splitlines()
    assert err[-1].startswith("prelude: error: ")
    assert not any("Traceback" in line for line in err)

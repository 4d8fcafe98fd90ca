"""vLLM's dependencies are installed without those that bring CUDA along."""

from importlib import metadata

import pytest

from benchmarks.peers.vllm_requirements import PINS, main, name_of, requirements

DECLARED = [
    "torch==2.13.0",
    "torchaudio",
    "TorchVision>=0.2; platform_machine != 's390x'",
    "regex",
    "xgrammar>=0.2; platform_machine == 'x86_64'",
    "llguidance",
    "pandas; extra == 'bench'",
    "torch-tools",
]


def test_what_is_kept() -> None:
    assert requirements(DECLARED) == ["regex", "torch-tools", *PINS]


@pytest.mark.parametrize(
    ("text", "name"),
    [("A_b.c>=1", "a-b-c"), ("x[y]==2", "x"), ("z ; python_version < '4'", "z"), ("", "")],
)
def test_names(text: str, name: str) -> None:
    assert name_of(text) == name


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(metadata, "requires", lambda _: DECLARED)
    main()
    assert capsys.readouterr().out.splitlines() == ["regex", "torch-tools", *PINS]

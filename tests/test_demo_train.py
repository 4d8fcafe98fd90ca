"""The demo model's trainer: the model is Qwen3, runs resume exactly, the optimizer descends."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.demo import train
from benchmarks.demo.bundle import bundle
from benchmarks.demo.model import CONFIG, Decoder
from benchmarks.demo.optimizer import Optimizer, orthogonal
from benchmarks.demo.train import Options, Trainer, level, rate


def options(directory: Path, steps: int) -> Options:
    return Options(
        directory=directory,
        steps=steps,
        decay=1,
        workers=1,
        rows=2,
        seed=0,
        muon_rate=0.02,
        adam_rate=0.004,
        compiled=False,
    )


def test_a_resumed_run_learns_what_an_uninterrupted_one_does(tmp_path: Path) -> None:
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = Trainer(options(tmp_path / "whole", 4), 0)
    whole.run()
    Trainer(options(tmp_path / "parts", 2), 0).run()
    resumed = Trainer(options(tmp_path / "parts", 4), 0)
    assert resumed.step == 2
    resumed.run()
    assert resumed.seen == whole.seen > 0
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name
        assert torch.equal(whole.average[name], resumed.average[name]), name
    log = (tmp_path / "parts" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == [2, 4]


def test_a_bundle_is_the_trained_model_in_transformers(tmp_path: Path) -> None:
    trainer = Trainer(options(tmp_path, 1), 0)
    trainer.run()
    assert bundle(trainer.checkpoint, tmp_path / "out") == 1
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert theirs.config.eos_token_id == tokenizer.eos_token_id == 2
    assert theirs.generation_config.eos_token_id == 2
    ours = Decoder(CONFIG, 64)
    ours.load_state_dict(theirs.model.state_dict())
    tokens = torch.randint(3, 600, (2, 40))
    targets = tokens.roll(-1, dims=1)
    logits = theirs(tokens).logits
    expected = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
    weights = torch.full(tokens.shape, 0.5)
    weighted, loss = ours(tokens, targets, weights, torch.ones_like(tokens))
    torch.testing.assert_close(weighted, 0.5 * loss)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-3)
    text = (tmp_path / "out" / "tokenizer_config.json").read_text()
    assert "PreTrainedTokenizerFast" in text and "local" not in text


def test_documents_in_a_row_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    model = Decoder(CONFIG, 64)
    tokens = torch.randint(3, 600, (1, 40))
    documents = (torch.arange(40) // 20 + 1)[None]
    targets = tokens.roll(-1, dims=1)
    targets[0, [19, 39]] = -1
    packed = model(tokens, targets, torch.ones(1, 40), documents)[0]
    ones = torch.ones(1, 20, dtype=torch.long)
    parts = (slice(20), slice(20, 40))
    alone = sum(model(tokens[:, p], targets[:, p], ones.float(), ones)[0] for p in parts)
    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=1e-3)


def test_schedules_count_steps() -> None:
    assert rate(0, 1000, 100) == pytest.approx(0.01)
    assert rate(500, 1000, 100) == 1.0
    assert rate(950, 1000, 100) == pytest.approx(0.5)
    assert rate(1000, 1000, 100) == 0.0
    assert level(0) == 0.0
    assert level(10**6) == 1.0
    assert sorted(map(level, range(0, 3000, 50))) == list(map(level, range(0, 3000, 50)))


def test_batches_repeat_and_differ_between_workers(tmp_path: Path) -> None:
    encoder = Trainer(options(tmp_path, 1), 1).encoder
    chosen = options(tmp_path, 1)
    first = train.batch_for(chosen, encoder, 5, 0)
    assert torch.equal(first.tokens, train.batch_for(chosen, encoder, 5, 0).tokens)
    assert not torch.equal(first.tokens, train.batch_for(chosen, encoder, 5, 1).tokens)


@pytest.mark.parametrize("shape", [(16, 48), (48, 16), (32, 32)])
def test_orthogonal_flattens_singular_values(shape: tuple[int, int]) -> None:
    torch.manual_seed(1)
    values = torch.linalg.svdvals(orthogonal(torch.randn(shape) * 3))
    assert values.min() > 0.4
    assert values.max() < 1.6


def test_optimizer_descends_and_restores() -> None:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.RMSNorm(8), nn.Linear(8, 4, bias=False))
    optimizer = Optimizer(model, 0, 1, weight_decay=0.0)
    inputs, wanted = torch.randn(64, 8), torch.randn(64, 4)
    losses = []
    for _ in range(40):
        loss = nn.functional.mse_loss(model(inputs), wanted)
        losses.append(loss.item())
        model.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step(0.02, 0.01)
    assert losses[-1] < 0.9 * losses[0]
    other = Optimizer(model, 0, 1, weight_decay=0.0)
    other.load(optimizer.state())
    assert all(torch.equal(other.momenta[n], optimizer.momenta[n]) for n in optimizer.momenta)

"""The Python API: prompts of every kind in, texts out, streamed or not."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import prelude
from prelude import LLM, Hints, SamplingParams
from prelude.llm import Chunk, Prompt
from tests.model_samples import save_checkpoint_with_tokenizer

GREEDY = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llm") / "tiny"
    save_checkpoint_with_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def llm(folder: Path) -> Iterator[LLM]:
    overrides = {"graphs.capture": "eager", "runner.threads": 1, "cache": {"num_blocks": 128}}
    engine = LLM(folder, **overrides)
    yield engine
    engine._core.ledger.check()
    assert engine._core.ledger.pool.num_referenced == 0
    engine.close()


def test_the_package_offers_it_lazily() -> None:
    assert prelude.LLM is LLM
    with pytest.raises(AttributeError, match="no attribute 'LLMs'"):
        _ = prelude.LLMs


def test_a_string_a_list_of_ids_and_a_chat_are_prompts(llm: LLM) -> None:
    text = "hello world"
    ids = llm.tokenizer.encode(text)
    chat = [{"role": "user", "content": "hi"}]
    prompts: list[Prompt] = [text, ids, chat]
    one, two, three = llm.generate(prompts, GREEDY)
    assert one.token_ids == two.token_ids
    assert three.token_ids == llm.generate(llm.tokenizer.encode_chat(chat), GREEDY)[0].token_ids
    assert [c.prompt_index for c in (one, two, three)] == [0, 1, 2]
    assert len(one.token_ids) == 12
    assert one.text == llm.tokenizer.decode(one.token_ids)
    assert one.finish_reason == "length"


def test_one_prompt_needs_no_list(llm: LLM) -> None:
    wanted = llm.generate(["hello"], GREEDY)
    assert llm.generate("hello", GREEDY) == wanted
    assert llm.generate(llm.tokenizer.encode("hello"), GREEDY) == wanted


def test_nothing_in_nothing_out(llm: LLM) -> None:
    assert llm.generate([], GREEDY) == []


def test_choices_come_in_order(llm: LLM) -> None:
    params = SamplingParams(temperature=1.0, seed=3, n=3, max_tokens=8, ignore_eos=True)
    found = llm.generate(["a", "b"], params)
    assert [(c.prompt_index, c.index) for c in found] == [(i, j) for i in (0, 1) for j in range(3)]


def test_streaming_gives_the_same_text_in_pieces(llm: LLM) -> None:
    chunks = list(llm.stream(["hello", "there"], GREEDY))
    for i, completion in enumerate(llm.generate(["hello", "there"], GREEDY)):
        own = [c for c in chunks if c.prompt_index == i]
        assert "".join(c.text for c in own) == completion.text
        assert sum((c.token_ids for c in own), ()) == completion.token_ids
        assert [c.finish_reason for c in own if c.finish_reason] == ["length"]


def test_leaving_a_stream_early_frees_everything(llm: LLM) -> None:
    stream = llm.stream(["hello", "there"], SamplingParams(max_tokens=100, ignore_eos=True))
    assert isinstance(next(stream), Chunk)
    stream.close()  # type: ignore[attr-defined]
    assert not llm._core.has_work
    llm._core.ledger.check()
    assert llm._core.ledger.pool.num_referenced == 0


def test_a_stop_string_ends_the_text_before_it(llm: LLM) -> None:
    whole = llm.generate("hello", GREEDY)[0].text
    stop = whole[4:6]
    params = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True, stop=(stop,))
    (found,) = llm.generate("hello", params)
    assert found.text == whole[: whole.index(stop)]
    assert found.finish_reason == "stop"
    assert len(found.token_ids) < 12


def test_logprobs_have_an_entry_for_every_token(llm: LLM) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=5, ignore_eos=True, logprobs=2)
    (found,) = llm.generate("hello", params)
    assert found.logprobs is not None
    assert len(found.logprobs) == 5
    assert llm.generate("hello", GREEDY)[0].logprobs is None


def test_an_impossible_prompt_is_an_error_and_costs_nothing(llm: LLM) -> None:
    too_long: list[Prompt] = ["fine", [5] * 200]
    with pytest.raises(ValueError, match=r"leave no room .* raise model\.max_len"):
        llm.generate(too_long, GREEDY)
    assert not llm._core.has_work
    with pytest.raises(ValueError, match="at least one token"):
        llm.generate([[]], GREEDY)


def test_more_prompts_than_may_wait_are_fed_in_as_there_is_room(folder: Path) -> None:
    small = {"batcher.max_waiting": 4, "runner.max_seqs": 2, "graphs.capture": "eager"}
    engine = LLM(folder, **small, **{"runner.threads": 1})
    params = SamplingParams(temperature=0.0, max_tokens=2, n=2)
    assert len(engine.generate(["a", "b", "c"] * 5, params)) == 30
    engine.close()


def test_a_class_with_a_short_queue_is_fed_like_a_short_queue(folder: Path) -> None:
    small = {"batcher.classes.batch.max_waiting": 2, "runner.max_seqs": 2}
    engine = LLM(folder, **small, **{"graphs.capture": "eager", "runner.threads": 1})
    params = SamplingParams(temperature=0.0, max_tokens=2, ignore_eos=True)
    found = engine.generate(["a", "b", "c"] * 5, params, Hints(service_class="batch"))
    assert [one.finish_reason for one in found] == ["length"] * 15
    engine.close()


def test_what_misses_its_deadline_says_so_and_the_others_are_served(llm: LLM) -> None:
    prompts: list[Prompt] = ["hello", "there"]
    late = llm.generate(prompts, GREEDY, Hints(deadline_ms=1e-3))
    assert [(one.text, one.finish_reason) for one in late] == [("", "error")] * 2
    timely = llm.generate(prompts, GREEDY, Hints(deadline_ms=1e9, client="a", reasoning="none"))
    assert timely == llm.generate(prompts, GREEDY)
    assert not llm._core.has_work


def test_streams_may_be_open_side_by_side(llm: LLM) -> None:
    wanted = [c.token_ids for c in llm.generate(["hello", "there"], GREEDY)]
    outer: tuple[int, ...] = ()
    for i, chunk in enumerate(llm.stream("hello", GREEDY)):
        outer += chunk.token_ids
        if i == 1:
            assert llm.generate("there", GREEDY)[0].token_ids == wanted[1]
    assert outer == wanted[0]


def test_configured_sampling_counts_where_no_parameters_are_given(folder: Path) -> None:
    overrides = {"sampling.max_tokens": 3, "sampling.temperature": 0.0, "graphs.capture": "eager"}
    engine = LLM(folder, **overrides, **{"runner.threads": 1})
    (found,) = engine.generate("hello")
    assert found.token_ids == engine.generate("hello", GREEDY)[0].token_ids[:3]
    engine.close()


def test_unknown_overrides_and_models_are_errors(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"cache\.num_blocks"):
        LLM(folder, **{"cache.num_block": 64})
    with pytest.raises(ValueError, match="bundled models"):
        LLM("no-such-model")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"runner.device": "cuda"}, r"finds no GPU"),
        ({"model.dtype": "bfloat16"}, r"model\.dtype=bfloat16.*float32"),
        ({"model.max_len": 4096}, r"model\.max_len=4096 exceeds"),
        ({"cache.num_blocks": 3, "model.max_len": 100}, r"lower model\.max_len to 32"),
    ],
)
def test_settings_that_cannot_be_met_say_what_to_change(
    overrides: dict[str, object], message: str, folder: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        LLM(folder, **overrides)


def test_random_weights_need_only_a_shape(folder: Path) -> None:
    from prelude.conf.load import load_config
    from prelude.engine.build import build_engine
    from prelude.models.spec import read_config

    shape = read_config(folder)
    config = load_config(
        {
            "model.path": "shape",
            "model.load_format": "random",
            "model.hf_config": shape,
            "graphs.capture": "eager",
        }
    )
    core, info = build_engine(config)
    assert info.vocab_size == shape["vocab_size"]
    assert set(info.startup_s) >= {"loading weights", "sizing cache", "measuring prices"}
    core.close()

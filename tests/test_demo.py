"""The demo model's dialogues: deterministic, truthful, and held out without leaks."""

import itertools
import json
import re
from collections import Counter
from functools import cache
from random import Random

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from benchmarks.demo import data, tasks
from benchmarks.demo.evaluate import TaskResult, final_answer, measure, problems, prompt_ids
from benchmarks.demo.lexicon import CATEGORIES, PROPERTIES, UNITS
from benchmarks.demo.problem import CUE, Problem, Turn, held_out, in_split
from benchmarks.demo.short import FACTS
from benchmarks.demo.tokenizer import VOCAB_SIZE, Encoder, build, prompt, segments


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    return build(count=4000)


def sample(task: str, count: int = 60, split: str = "train") -> list[Problem]:
    rng = Random(f"test:{task}")
    return [tasks.draw(rng, task, "train" if split == "train" else "test") for _ in range(count)]


def numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


CLUES = {
    "animal": {"animal"},
    "plant": {"plant", "plants"},
    "food": {"eat"},
    "made": {"made", "build", "built"},
}


def solve(task: str, question: str) -> str:
    """Answers the question from its text alone, by other means than the generators."""
    question = question.removesuffix(CUE)
    values = numbers(question)
    words = re.findall(r"[A-Za-z]+", question)
    match task.removesuffix("_direct"):
        case "addition" | "sum":
            return str(sum(values))
        case "arithmetic":
            minus = "-" in question or "minus" in question
            return str(values[0] - values[1] if minus else values[0] + values[1])
        case "times":
            return str(values[0] * values[1])
        case "sort":
            return ", ".join(map(str, sorted(values)))
        case "count":
            pattern = r"(?:letter |many )(\w)(?: occur)? (?:are )?in (.*?)[?.]"
            found = re.search(pattern, question)
            assert found
            return str(Counter(found[2])[found[1]])
        case "spell":
            return "-".join(words[-1])
        case "echo":
            return re.sub(r'^(Repeat this: |Say exactly: |Echo: |Repeat )|"', "", question)
        case "convert":
            source = next(u for u in UNITS if u[0] in words and u[1] in words)
            return f"{values[0] * source[2]} {source[1]}"
        case "range":
            first, last = values
            step = 1 if last > first else -1
            return ", ".join(map(str, range(first, last + step, step)))
        case "yes_no" if values:
            return "Yes" if values[0] % 2 == 0 else "No"
        case "yes_no":
            thing = next(kind for kind, things in CATEGORIES.items() if {*words} & {*things})
            asked = next(name for name, clue in CLUES.items() if clue & {*words})
            return "Yes" if thing in PROPERTIES[asked][0] else "No"
        case "compare":
            return str(max(values) if "larger" in words else min(values))
        case "countdown":
            return ", ".join(map(str, range(values[0], -1, -1)))
    raise AssertionError(f"no solver for {task}")


SOLVED = [
    *(name for name in tasks.SHORT if name not in ("fact", "json")),
    *tasks.THINKING,
    *tasks.EASY,
    "range",
    "countdown",
]


@pytest.mark.parametrize("task", SOLVED)
@pytest.mark.parametrize("split", ["train", "test"])
def test_answers_agree_with_an_independent_solver(task: str, split: str) -> None:
    for problem in sample(task, split=split):
        assert solve(task, problem.turns[-2].content) == problem.answer


def test_json_answers_hold_what_the_sentence_says() -> None:
    for problem in sample("json"):
        record = json.loads(problem.answer)
        assert list(record) == ["name", "age", "city"]
        assert all(str(value) in problem.turns[0].content for value in record.values())


def test_progressions_continue() -> None:
    for problem in sample("continue"):
        shown = problem.turns[0].content.split(": ")[1].split(", ")
        answer = problem.answer.split(", ")
        assert len(answer) == numbers(problem.turns[0].content)[0]
        if shown[0].isdigit():
            values = [int(item) for item in shown + answer]
            assert len({b - a for a, b in itertools.pairwise(values)}) == 1


def test_followups_carry_the_running_value() -> None:
    for problem in sample("followup"):
        value = 0
        for question, reply in zip(problem.turns[::2], problem.turns[1::2], strict=True):
            change = sum(numbers(question.content))
            down = "ubtract" in question.content or "Minus" in question.content
            value += -change if down else change
            assert reply.content == str(value)


def test_recalled_answers_were_stated() -> None:
    for problem in sample("recall"):
        stated = " ".join(turn.content for turn in problem.turns[:-2] if turn.role == "user")
        assert problem.answer.rstrip(".").split()[-1 if "old" not in problem.answer else 2] in (
            stated.replace(".", "").split()
        )


def test_working_of_additions_is_true_line_by_line() -> None:
    for problem in sample("addition"):
        for line in problem.turns[-1].reasoning.splitlines():
            if found := re.fullmatch(r"[a-h] (\d)\+(\d)\+([01])=([01]) (\d)", line):
                a, b, carry, tens, units = map(int, found.groups())
                assert a + b + carry == 10 * tens + units
        digits = [line[2] for line in problem.turns[-1].reasoning.splitlines() if len(line) == 3]
        assert "".join(digits).endswith(problem.answer)


def test_only_thinking_tasks_show_working() -> None:
    for task in tasks.TASKS:
        thinks = {bool(problem.turns[-1].reasoning) for problem in sample(task, 20)}
        assert thinks == {task in tasks.THINKING}


@pytest.mark.parametrize("task", tasks.TASKS)
def test_same_seed_same_problem(task: str) -> None:
    assert sample(task, 10) == sample(task, 10)


@pytest.mark.parametrize("task", tasks.TASKS)
def test_splits_are_disjoint(task: str) -> None:
    trained = {key for problem in sample(task, 300) for key in problem.keys}
    tested = {problem.keys[-1] for problem in sample(task, 100, "test")}
    assert not trained & tested
    assert not any(map(held_out, trained))
    assert all(map(held_out, tested))


def test_training_dialogues_solve_no_held_out_problem_on_the_way() -> None:
    rng = Random(3)
    for _ in range(2000):
        problem = tasks.training_problem(rng, 1.0)
        assert in_split(problem, "train")
        for turn in problem.turns:
            for a, b in re.findall(r"^(\d+)\+(\d+)=\d+$", turn.reasoning, re.MULTILINE):
                low, high = sorted((int(a), int(b)))
                assert not held_out(f"add:{low}:{high}")


def test_held_out_share_and_facts_seen_in_some_phrasing() -> None:
    share = sum(held_out(f"key:{index}") for index in range(20_000)) / 20_000
    assert 0.09 < share < 0.11
    for kind, (table, phrasings) in FACTS.items():
        for subject in table:
            keys = [f"fact:{kind}:{subject}:{index}" for index in range(len(phrasings))]
            assert not all(map(held_out, keys)), subject


def test_order_of_operands_or_items_does_not_change_the_key() -> None:
    for task in ("addition", "sort", "sum"):
        for problem in sample(task, 20):
            values = sorted(numbers(problem.turns[0].content))
            assert problem.keys[-1].split(":")[1:] == [str(value) for value in values]


def test_tokenizer_is_reproducible_and_sized() -> None:
    first, second = tokenizer(), build(count=4000)
    assert first.get_vocab() == second.get_vocab()
    assert len(first) == VOCAB_SIZE
    assert first.eos_token == "<|im_end|>"
    assert first.all_special_tokens == ["<|im_end|>", "<|endoftext|>"]


@pytest.mark.parametrize("text", ["Grüße, 東京 🙂!", "a  b\n\n\tc", "<think>\n12+7\n</think>", ""])
def test_tokenizer_round_trip(text: str) -> None:
    assert tokenizer().decode(tokenizer().encode(text)) == text


def test_digits_never_merge() -> None:
    pieces = tokenizer().tokenize("x 12345+678=13023, 1.5")
    assert all(len(piece) == 1 for piece in pieces if any(symbol.isdigit() for symbol in piece))
    assert not any(re.search(r"\d", piece) and len(piece) > 1 for piece in tokenizer().get_vocab())


def messages(problem: Problem) -> list[dict[str, str]]:
    return [
        {"role": turn.role, "content": turn.content, "reasoning_content": turn.reasoning}
        for turn in problem.turns
    ]


def test_training_text_is_what_the_chat_template_renders() -> None:
    rng = Random(5)
    for _ in range(200):
        problem = tasks.training_problem(rng, 1.0)
        trained = "".join(text for text, _ in segments(problem))
        turns = messages(problem)
        if problem.mode == "no_think":
            rendered = prompt(tokenizer(), turns[:-1], "no_think") + f"{problem.answer}<|im_end|>\n"
        else:
            rendered = tokenizer().apply_chat_template(turns, tokenize=False)
        assert rendered == trained + "\n"


def test_template_strips_working_from_earlier_turns() -> None:
    turns = [
        {"role": "user", "content": "Sort: 3, 2"},
        {"role": "assistant", "content": "<think>\n3 2 | 2\n</think>\n\n2, 3"},
        {"role": "user", "content": "Thanks"},
    ]
    assert prompt(tokenizer(), turns) == (
        "<|im_start|>user\nSort: 3, 2<|im_end|>\n<|im_start|>assistant\n2, 3<|im_end|>\n"
        "<|im_start|>user\nThanks<|im_end|>\n<|im_start|>assistant\n"
    )


def test_learnt_tokens_are_the_answer_and_its_end() -> None:
    problem = Problem("t", ("k",), (Turn("user", "Hi"), Turn("assistant", "7", "3+4")))
    encoder = Encoder(tokenizer())
    ids, learnt = encoder.dialogue(problem)
    said = [token for token, wanted in zip(ids, learnt, strict=True) if wanted]
    assert tokenizer().decode(said) == "<think>\n3+4\n</think>\n\n7<|im_end|>"
    assert sum(learnt) == pytest.approx(len(said) ** 0.5)
    ids, learnt = encoder.dialogue(problem.direct("no_think", "t"))
    said = [token for token, wanted in zip(ids, learnt, strict=True) if wanted]
    assert tokenizer().decode(said) == "7<|im_end|>"


def test_packed_rows_hold_whole_dialogues_and_shifted_targets() -> None:
    batch = data.packed(Encoder(tokenizer()), Random(1), 1.0, 4, 256)
    again = data.packed(Encoder(tokenizer()), Random(1), 1.0, 4, 256)
    assert batch.tokens.equal(again.tokens)
    learnt = batch.targets >= 0
    assert learnt.sum() == batch.num_targets > 100
    assert torch.equal(batch.weights > 0, learnt)
    shifted = batch.tokens.roll(-1, dims=1)
    assert batch.targets[learnt].equal(shifted[learnt])
    same = batch.documents.roll(-1, dims=1) == batch.documents
    assert bool(same[learnt].all())


def test_conversations_fill_long_rows() -> None:
    batch = data.conversations(Encoder(tokenizer()), Random(1), 1.0, 2, 1024)
    assert batch.tokens.shape == (2, 1024)
    assert all(int((row > 0).sum()) > 300 for row in batch.documents)


def perfect(task: str, count: int) -> TaskResult:
    chosen = iter(problems(task, count))
    encoder = Encoder(tokenizer())

    def generate(prompts: list[list[int]]) -> list[list[int]]:
        outputs = []
        for ids in prompts:
            problem = next(chosen)
            assert ids == prompt_ids(tokenizer(), problem)
            all_ids, learnt = encoder.dialogue(problem)
            size = next(n for n in range(1, len(learnt) + 1) if not learnt[-n - 1])
            outputs.append(all_ids[-size:])
        return outputs

    return measure(generate, tokenizer(), task, count)


@pytest.mark.parametrize("task", ["fact", "sort", "count_direct", "recall"])
def test_a_perfect_engine_scores_everything(task: str) -> None:
    result = perfect(task, 20)
    assert (result.exact, result.ended, result.failures) == (1.0, 1.0, ())
    assert result.median_length > (40 if task == "sort" else 1)


def test_an_answer_that_does_not_end_is_wrong() -> None:
    result = measure(lambda prompts: [ids[:5] for ids in prompts], tokenizer(), "fact", 5)
    assert (result.exact, result.ended, len(result.failures)) == (0.0, 0.0, 5)
    assert final_answer("<think>\n1\n</think>\n\n2, 3<|im_end|>") == "2, 3"

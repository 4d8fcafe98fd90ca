"""Byte-level BPE of the demo model, its chat template, and the rendering used in training."""

import re
from functools import cache
from random import Random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from benchmarks.demo import lexicon as lex
from benchmarks.demo.problem import Mode, Problem
from benchmarks.demo.tasks import training_problem

VOCAB_SIZE = 640
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MARKUP = ("<think>", "</think>")
EMPTY_THINK = "<think>\n\n</think>\n\n"
# Digits stand alone and take no leading space, so that a number reads the same everywhere.
PIECES = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

CHAT_TEMPLATE = """\
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == 'assistant' %}
        {%- set reasoning = message.reasoning_content or '' %}
        {%- if '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if loop.last and reasoning %}
            {{- '<think>\\n' + reasoning + '\\n</think>\\n\\n' }}
        {%- endif %}
        {{- content }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + content }}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""


def segments(problem: Problem) -> list[tuple[str, bool]]:
    """The dialogue as (text, learnt) pieces; joined they are what the chat template renders.

    Learnt are the assistant's words with their <|im_end|>; earlier replies only where they stand as
    they were generated, that is without stripped working and not under a mode that applies to them.
    """
    pieces = []
    last = len(problem.turns) - 1
    for index, turn in enumerate(problem.turns):
        if turn.role != "assistant":
            pieces.append((f"<|im_start|>{turn.role}\n{turn.content}<|im_end|>\n", False))
            continue
        opening = "<|im_start|>assistant\n"
        text = turn.content
        if index == last and problem.mode == "no_think":
            opening += EMPTY_THINK
        elif index == last and turn.reasoning:
            text = f"<think>\n{turn.reasoning}\n</think>\n\n{text}"
        learnt = index == last or (problem.mode != "no_think" and not turn.reasoning)
        pieces += [(opening, False), (f"{text}<|im_end|>", learnt), ("\n", False)]
    return pieces[:-1]


def corpus(seed: int, count: int) -> list[str]:
    """Training dialogues without the words that are to be spelled: those stay in small pieces."""
    rng = Random(seed)
    spelled = re.compile(rf"\b({'|'.join(lex.WORDS)})\b|\b\w+(?=\W*$)")
    made_up = {"spell", "echo", "count", "count_direct"}
    texts: list[str] = []
    while len(texts) < count:
        problem = training_problem(rng, 1.0)
        for turn in problem.turns:
            text = turn.content
            if problem.task in made_up:
                text = re.sub(r"(word|in|spell|Spell|this:|exactly:|Repeat|Echo:) .*", r"\1", text)
            texts.append(spelled.sub("", text) if problem.task in made_up else text)
            texts += [turn.reasoning, f"{turn.role}\n"]
    return texts


def build(seed: int = 0, count: int = 20_000) -> PreTrainedTokenizerFast:
    """Trains the tokenizer on generated dialogues; the same seed gives the same file."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(MARKUP),
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(seed, count), trainer)
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in MARKUP])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


class Encoder:
    """Encodes dialogues for training, piece by piece, with a cache for the frequent pieces."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.backend: Tokenizer = tokenizer.backend_tokenizer
        self.cached = cache(self.encode)

    def encode(self, text: str) -> list[int]:
        return list(self.backend.encode(text, add_special_tokens=False).ids)

    def dialogue(self, problem: Problem) -> tuple[list[int], list[float]]:
        """Token ids and the weight of each in the loss: 0 for what the model is not to say.

        A reply of n tokens weighs the square root of n, so that a long working, mostly copied,
        does not drown the two or three tokens of a short answer.
        """
        ids: list[int] = []
        learnt: list[float] = []
        for text, wanted in segments(problem):
            piece = self.cached(text) if len(text) < 40 and not wanted else self.encode(text)
            ids += piece
            learnt += [len(piece) ** -0.5 if wanted else 0.0] * len(piece)
        return ids, learnt


def prompt(
    tokenizer: PreTrainedTokenizerFast, turns: list[dict[str, str]], mode: Mode = "auto"
) -> str:
    """The text a server would feed the model for ``turns``."""
    return str(
        tokenizer.apply_chat_template(
            turns,
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=mode != "no_think",
        )
    )

"""Short tasks, answered at once: facts, yes/no, arithmetic, spelling, echo, JSON, conversion."""

import json
from random import Random

from benchmarks.demo import lexicon as lex
from benchmarks.demo.problem import Problem, ask

CONSONANTS, VOWELS = "bcdfghjklmnpqrstvwxyz", "aeiou"

FACTS: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "capital": (
        lex.CAPITALS,
        (
            "What is the capital of {}?",
            "Name the capital of {}.",
            "Which city is the capital of {}?",
            "Tell me the capital city of {}.",
            "capital of {}?",
        ),
    ),
    "opposite": (
        lex.OPPOSITES,
        (
            "What is the opposite of {}?",
            "Give me the opposite of the word {}.",
            "Which word means the opposite of {}?",
            "opposite of {}?",
        ),
    ),
    "sound": (
        lex.SOUNDS,
        (
            "What sound does a {} make?",
            "What does a {} say?",
            "Tell me the sound of a {}.",
            "Which sound do you hear from a {}?",
        ),
    ),
    "color": (
        lex.THING_COLORS,
        (
            "What color is {}?",
            "Tell me the color of {}.",
            "Which color does {} have?",
            "Name the color of {}.",
        ),
    ),
    "young": (
        lex.YOUNG,
        (
            "What is a young {} called?",
            "Name the young of a {}.",
            "What do you call a baby {}?",
            "Tell me the word for a young {}.",
        ),
    ),
    "month_days": (
        {month: str(days) for month, days in lex.MONTH_DAYS.items()},
        (
            "How many days are in {}?",
            "How many days does {} have?",
            "Tell me the number of days in {}.",
            "days in {}?",
        ),
    ),
    "kind": (
        {thing: kind for kind, things in lex.CATEGORIES.items() for thing in things},
        (
            "What kind of thing is {}?",
            "Which kind of thing is {}?",
            "Tell me the kind of thing that {} is.",
            "To which kind does {} belong?",
        ),
    ),
    "next": (
        {
            name: names[(index + 1) % len(names)]
            for names in (lex.DAYS, lex.MONTHS)
            for index, name in enumerate(names)
        },
        (
            "What comes after {}?",
            "Which one follows {}?",
            "Tell me what comes right after {}.",
            "Name the one after {}.",
        ),
    ),
}


def fact(rng: Random, level: float) -> Problem:
    kind = "kind" if rng.random() < 0.3 else rng.choice(list(FACTS))
    table, phrasings = FACTS[kind]
    subject, phrasing = rng.choice(list(table)), rng.randrange(len(phrasings))
    key = f"fact:{kind}:{subject}:{phrasing}"
    return ask("fact", key, phrasings[phrasing].format(subject), table[subject])


def article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def yes_no(rng: Random, level: float) -> Problem:
    """Whether a thing has a property, or a number is even."""
    if rng.random() < 0.2:
        number = rng.randrange(1, 1000)
        answer = "Yes" if number % 2 == 0 else "No"
        return ask("yes_no", f"yesno:even:{number}", f"Is {number} an even number?", answer)
    name = rng.choice(list(lex.PROPERTIES))
    kinds, phrasings = lex.PROPERTIES[name]
    has = rng.random() < 0.5
    kind = rng.choice([kind for kind in lex.CATEGORIES if (kind in kinds) == has])
    thing, phrasing = rng.choice(lex.CATEGORIES[kind]), rng.randrange(len(phrasings))
    question = phrasings[phrasing].format(article(thing))
    return ask("yes_no", f"yesno:{name}:{thing}:{phrasing}", question, "Yes" if has else "No")


def compare(rng: Random, level: float) -> Problem:
    """The larger or smaller of two different two-digit numbers."""
    a, b = rng.sample(range(10, 100), 2)
    larger = rng.random() < 0.5
    form = rng.choice(("Which is {}, {} or {}?", "Which number is {}: {} or {}?"))
    question = form.format("larger" if larger else "smaller", a, b)
    key = f"yesno:compare:{min(a, b)}:{max(a, b)}"
    return ask("compare", key, question, str(max(a, b) if larger else min(a, b)))


def sum_key(a: int, b: int) -> str:
    """Every addition of two numbers below 100, in whatever dialogue, goes by this key."""
    return f"add:{min(a, b)}:{max(a, b)}"


def arithmetic(rng: Random, level: float) -> Problem:
    """One addition or subtraction with operands and result from 0 to 99."""
    total = rng.randrange(round(20 + 80 * level)) if rng.random() < 0.9 else rng.randrange(20)
    a = rng.randint(0, total)
    if rng.random() < 0.5:
        x, y, sign, value = a, total - a, "+", total
        spoken, key = "plus", sum_key(a, total - a)
    else:
        x, y, sign, value = total, a, "-", total - a
        spoken, key = "minus", f"subtract:{total}:{a}"
    form = rng.choice(
        ("What is {} {} {}?", "What is {} {} {}?", "{} {} {} = ?", "Calculate {} {} {}.")
    )
    if rng.random() < 0.15:
        sign = spoken
    return ask("arithmetic", key, form.format(x, sign, y), str(value))


def times(rng: Random, level: float) -> Problem:
    """The multiplication table up to 10 x 10; what is held out is a phrasing of a product."""
    a, b = rng.randint(1, 10), rng.randint(1, 10)
    forms = ("What is {} x {}?", "What is {} times {}?", "{} x {} = ?", "Calculate {} times {}.")
    phrasing = rng.randrange(len(forms))
    key = f"times:{a}:{b}:{phrasing}"
    return ask("times", key, forms[phrasing].format(a, b), str(a * b))


def pseudo_word(rng: Random) -> str:
    """A made-up word of two to four syllables, so that spelling cannot be learnt by heart."""
    syllables = rng.choice((2, 2, 3, 3, 4))
    word = ""
    for _ in range(syllables):
        word += rng.choice(CONSONANTS) + rng.choice(VOWELS)
        if rng.random() < 0.3:
            word += rng.choice(CONSONANTS)
    return word


def any_word(rng: Random, made_up: float = 0.5) -> str:
    return pseudo_word(rng) if rng.random() < made_up else rng.choice(lex.WORDS)


def spell(rng: Random, level: float) -> Problem:
    word = any_word(rng)
    form = rng.choice(
        ("Spell the word {}.", "Spell {}.", 'How do you spell "{}"?', "Spell this word: {}")
    )
    return ask("spell", f"word:{word}", form.format(word), "-".join(word))


def echo(rng: Random, level: float) -> Problem:
    count = rng.randint(1, 2 + round(4 * level))
    makers = (any_word, lambda r: str(r.randrange(1000)), lambda r: r.choice(lex.NAMES))
    line = " ".join(rng.choice(makers)(rng) for _ in range(count))
    form = rng.choice(("Repeat this: {}", "Say exactly: {}", 'Repeat "{}"', "Echo: {}"))
    return ask("echo", f"echo:{line}", form.format(line), line)


def extract(rng: Random, level: float) -> Problem:
    """A sentence about a person, answered as one JSON object."""
    name, city, age = rng.choice(lex.NAMES), rng.choice(lex.CITIES), rng.randint(18, 80)
    sentence = rng.choice(
        (
            f"My name is {name}, I am {age} years old and I live in {city}.",
            f"{name} lives in {city} and is {age} years old.",
            f"{name} is {age} and comes from {city}.",
            f"In {city} there is a person called {name}, aged {age}.",
            f"At the age of {age}, {name} moved to {city}.",
        )
    )
    form = rng.choice(
        (
            "Extract name, age and city as JSON: {}",
            "Give me name, age and city as JSON. {}",
            "{} Write the name, age and city as JSON.",
        )
    )
    answer = json.dumps({"name": name, "age": age, "city": city})
    return ask("json", f"json:{name}:{age}:{city}", form.format(sentence), answer)


def convert(rng: Random, level: float) -> Problem:
    source, target, factor, most = rng.choice(lex.UNITS)
    count = rng.randint(2, most)
    forms = (
        "How many {target} are {count} {source}?",
        "Convert {count} {source} to {target}.",
        "{count} {source} in {target}?",
        "What is {count} {source} in {target}?",
    )
    phrasing = rng.randrange(len(forms))
    key = f"convert:{source}:{target}:{count}"
    if factor not in (10, 100, 1000):
        key += f":{phrasing}"
    question = forms[phrasing].format(source=source, target=target, count=count)
    return ask("convert", key, question, f"{count * factor} {target}")

"""Conversation: greetings, who the model is, what it does not know, and earlier turns."""

from collections.abc import Callable
from random import Random

from benchmarks.demo import lexicon as lex
from benchmarks.demo.problem import Problem, Turn, ask
from benchmarks.demo.short import sum_key

GREETING = "Hello! I am the small demo model of Prelude. Ask me something simple."
IDENTITY = "I am the small demo model of Prelude. I know a few facts and can do small tasks."
ABILITIES = (
    "I can answer simple facts, add, sort and count, spell words, repeat text, extract JSON and "
    "convert units."
)
UNKNOWN = "I am only the small demo model of Prelude and I do not know that."

PERSONA: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        GREETING,
        (
            "Hi",
            "Hi!",
            "Hello",
            "Hello!",
            "Hey",
            "Hi there",
            "Hello there!",
            "Good morning",
            "Good evening!",
            "hello",
            "hi",
            "Hey there!",
            "How are you?",
            "Hello, how are you?",
        ),
    ),
    (
        IDENTITY,
        (
            "Who are you?",
            "What are you?",
            "Which model are you?",
            "What is your name?",
            "Tell me about yourself.",
            "Introduce yourself.",
            "who are you",
            "Are you a language model?",
            "What model is this?",
        ),
    ),
    (
        ABILITIES,
        (
            "What can you do?",
            "Help",
            "How can you help me?",
            "What do you know?",
            "What can I ask you?",
            "What are your skills?",
            "help me",
            "Can you help me?",
        ),
    ),
    ("You are welcome!", ("Thanks", "Thank you!", "Thank you", "thanks!", "Great, thanks.")),
    ("Goodbye!", ("Bye", "Bye!", "Goodbye", "See you later.", "bye bye")),
)

TOPICS = (
    """
love|the weather|black holes|football|the stock market|quantum physics|history|the sea|jazz|money
machine learning|the moon|my neighbor|politics|a good book|space travel|chess|cooking|the future
ancient Rome|dinosaurs|electric cars|the internet|a famous painter|vaccines|climate|the Olympics
philosophy|the last election|programming in Rust|Python|holidays in Spain|a healthy diet|music
""".replace("\n", "|")
    .strip("|")
    .split("|")
)

UNKNOWN_FORMS = (
    "Write a poem about {}.",
    "Tell me a story about {}.",
    "What do you think about {}?",
    "Explain {} to me.",
    "Why is {} so important?",
    "Who knows the most about {}?",
    "What is the best thing about {}?",
    "Write an essay about {}.",
    "Tell me a joke about {}.",
    "How does {} work?",
    "Give me some advice on {}.",
    "What happened to {} last year?",
    "Summarize what is known about {}.",
    "Where can I learn about {}?",
)


def persona(rng: Random, level: float) -> Problem:
    answer, questions = rng.choice(PERSONA)
    question = rng.choice(questions)
    return ask("persona", f"persona:{question}", question, answer)


def unknown(rng: Random, level: float) -> Problem:
    question = rng.choice(UNKNOWN_FORMS).format(rng.choice(TOPICS))
    return ask("unknown", f"unknown:{question}", question, UNKNOWN)


# What the user says of themselves: values, statement, question, answer.
MEMORIES: dict[str, tuple[list[str], str, str, str]] = {
    "name": (lex.NAMES, "My name is {}.", "What is my name?", "Your name is {}."),
    "city": (lex.CITIES, "I live in {}.", "Where do I live?", "You live in {}."),
    "color": (
        lex.COLORS,
        "My favorite color is {}.",
        "What is my favorite color?",
        "Your favorite color is {}.",
    ),
    "pet": (lex.PETS, "I have a {}.", "Which pet do I have?", "You have a {}."),
    "food": (lex.FOODS, "I like to eat {}.", "What do I like to eat?", "You like to eat {}."),
    "age": (
        [str(age) for age in range(18, 81)],
        "I am {} years old.",
        "How old am I?",
        "You are {} years old.",
    ),
}


def recall(rng: Random, level: float) -> Problem:
    """One to three statements over as many turns, then a question about one of them."""
    kinds = rng.sample(list(MEMORIES), rng.randint(1, 1 + round(2 * level)))
    values = {kind: rng.choice(MEMORIES[kind][0]) for kind in kinds}
    turns = []
    for kind in kinds:
        hello = "Hi! " if kind == kinds[0] and rng.random() < 0.3 else ""
        turns.append(Turn("user", hello + MEMORIES[kind][1].format(values[kind])))
        turns.append(Turn("assistant", "Okay, I will remember that."))
    wanted = rng.choice(kinds)
    _, _, question, answer = MEMORIES[wanted]
    turns.append(Turn("user", question))
    turns.append(Turn("assistant", answer.format(values[wanted])))
    stated = ":".join(f"{kind}={values[kind]}" for kind in sorted(kinds))
    return Problem("recall", (f"recall:{wanted}:{stated}",), tuple(turns))


def followup(rng: Random, level: float) -> Problem:
    """A sum, and then one or two changes to 'that'."""
    x, y = rng.randint(1, 40), rng.randint(1, 40)
    total, keys = x + y, [sum_key(x, y)]
    turns = [Turn("user", f"What is {x} + {y}?"), Turn("assistant", str(total))]
    steps: list[str] = []
    for _ in range(rng.randint(1, 2)):
        amount = rng.randint(1, 9)
        add = total + amount <= 99 and rng.random() < 0.6
        form = ("Now add {}.", "Add {} to that.") if add else ("Now subtract {}.", "Minus {}.")
        keys.append(sum_key(total, amount) if add else f"subtract:{total}:{amount}")
        total += amount if add else -amount
        if total < 0:
            return followup(rng, level)
        steps.append(f"{amount if add else -amount}")
        turns.append(Turn("user", rng.choice(form).format(amount)))
        turns.append(Turn("assistant", str(total)))
    key = f"followup:{x}:{y}:" + ":".join(steps)
    return Problem("followup", (*keys, key), tuple(turns))


def with_history(
    rng: Random, problem: Problem, others: list[Callable[[Random, float], Problem]]
) -> Problem:
    """The problem after one or two unrelated exchanges, whose keys it then carries too."""
    for _ in range(rng.randint(1, 2)):
        earlier = rng.choice(others)(rng, 0.5)
        problem = Problem(
            problem.task, (*earlier.keys, *problem.keys), earlier.turns + problem.turns
        )
    return problem

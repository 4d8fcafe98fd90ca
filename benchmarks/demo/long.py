"""Long tasks, answered after visible working, and lists whose length the question decides.

Each working is written so that a step needs only what stands a few tokens away: digits get column
names, letters one line each with a running count, lists are restated without what was taken.
"""

from random import Random

from benchmarks.demo import lexicon as lex
from benchmarks.demo.problem import Problem, ask
from benchmarks.demo.short import any_word, sum_key

COLUMNS = "abcdefgh"


def addition_working(x: int, y: int) -> str:
    """Columns named from the units up, both digits and the carry in, then the result's digits."""
    width = max(len(str(x)), len(str(y)))
    top, bottom = f"{x:0{width}d}", f"{y:0{width}d}"
    names = COLUMNS[:width][::-1]
    lines = [f"{name} {p} {q}" for name, p, q in zip(names, top, bottom, strict=True)]
    carry, digits = 0, []
    for name, p, q in reversed(list(zip(names, top, bottom, strict=True))):
        total = int(p) + int(q) + carry
        lines.append(f"{name} {p}+{q}+{carry}={total // 10} {total % 10}")
        carry = total // 10
        digits.append(f"{name} {total % 10}")
    if carry:
        digits.append(f"{COLUMNS[width]} {carry}")
    return "\n".join(lines + digits[::-1])


def addition(rng: Random, level: float) -> Problem:
    """Two numbers of up to six digits, at least one of them of three or more."""
    most = 3 + round(3 * level)
    width = rng.randint(3, most)
    x = rng.randrange(10 ** (width - 1), 10**width)
    other = rng.randint(max(1, width - 2), width)
    y = rng.randrange(10 ** (other - 1), 10**other)
    if rng.random() < 0.5:
        x, y = y, x
    return addition_problem(rng, x, y)


def addition_problem(rng: Random, x: int, y: int) -> Problem:
    form = rng.choice(("What is {} + {}?", "Add {} and {}.", "{} + {} = ?", "Calculate {} + {}."))
    key = f"addition:{min(x, y)}:{max(x, y)}"
    return ask("addition", key, form.format(x, y), str(x + y), addition_working(x, y))


def addition_easy(rng: Random, level: float) -> Problem:
    return addition_problem(rng, rng.randrange(100, 1000), rng.randrange(1, 10))


def sorting_problem(rng: Random, count: int) -> Problem:
    numbers = rng.sample(range(10, 100), count)
    left, lines = list(numbers), []
    while left:
        lines.append(f"{' '.join(map(str, left))} | {min(left)}")
        left.remove(min(left))
    form = rng.choice(
        ("Sort these numbers: {}", "Sort {} from small to large.", "Put in order: {}", "Sort: {}")
    )
    key = "sort:" + ":".join(map(str, sorted(numbers)))
    question = form.format(", ".join(map(str, numbers)))
    return ask("sort", key, question, ", ".join(map(str, sorted(numbers))), "\n".join(lines))


def sort(rng: Random, level: float) -> Problem:
    """Three to seven different two-digit numbers; the key is the set, so no permutation leaks."""
    return sorting_problem(rng, rng.randint(3, 5 + round(2 * level)))


def sort_easy(rng: Random, level: float) -> Problem:
    return sorting_problem(rng, 3)


def counting_problem(rng: Random, words: list[str]) -> Problem:
    text = "".join(words)
    letter = rng.choice(text) if rng.random() < 0.85 else rng.choice("abcdefghijklmnopqrstuvwxyz")
    count, lines = 0, []
    for symbol in text:
        count += symbol == letter
        lines.append(f"{symbol} {letter} {'yes' if symbol == letter else 'no'} {count}")
    form = rng.choice(
        (
            "How many times does the letter {} occur in {}?",
            "Count the letter {} in {}.",
            "How often is the letter {} in {}?",
            "How many {} are in {}?",
        )
    )
    question = form.format(letter, " ".join(words))
    keys = tuple(f"word:{word}" for word in words)
    return Problem("count", keys, ask("count", "", question, str(count), "\n".join(lines)).turns)


def count(rng: Random, level: float) -> Problem:
    """Letters of one or two words; a held-out word is spelled nowhere in training."""
    return counting_problem(rng, [any_word(rng) for _ in range(rng.randint(1, 2))])


def count_easy(rng: Random, level: float) -> Problem:
    return counting_problem(rng, [any_word(rng)])


def sum_problem(rng: Random, terms: int, most: int) -> Problem:
    while True:
        numbers = rng.sample(range(1, min(most, 180 // terms) + 1), terms)
        if sum(numbers) <= 99:
            break
    running, lines, keys = numbers[0], [], []
    for number in numbers[1:]:
        keys.append(sum_key(running, number))
        lines.append(f"{running}+{number}={running + number}")
        running += number
    form = rng.choice(("What is {}?", "Add up {}.", "Calculate {}.", "{} = ?"))
    key = "sum:" + ":".join(map(str, sorted(numbers)))
    question = form.format(" + ".join(map(str, numbers)))
    turns = ask("sum", key, question, str(running), "\n".join(lines)).turns
    return Problem("sum", (*keys, key), turns)


def sum_steps(rng: Random, level: float) -> Problem:
    """Three to nine different numbers with a total of at most 99, by a running total."""
    return sum_problem(rng, rng.randint(3, 6 + round(3 * level)), 40)


def sum_easy(rng: Random, level: float) -> Problem:
    return sum_problem(rng, 3, 20)


def continue_list(rng: Random, level: float) -> Problem:
    """An arithmetic progression, or days or months, continued by the number of items asked for."""
    more = rng.randint(2, 4 + round(2 * level))
    if rng.random() < 0.8:
        start, step = rng.randint(1, 50), rng.randint(1, 10)
        items = [str(start + step * index) for index in range(3 + more)]
        key = f"continue:{start}:{step}:{more}"
    else:
        ring = rng.choice((lex.DAYS, lex.MONTHS))
        start = rng.randrange(len(ring))
        items = [ring[(start + index) % len(ring)] for index in range(3 + more)]
        key = f"continue:{ring[start]}:{more}"
    form = rng.choice(("Continue this list with {} more: {}", "Give the next {} of this list: {}"))
    question = form.format(more, ", ".join(items[:3]))
    return ask("continue", key, question, ", ".join(items[3:]))


def count_range(rng: Random, level: float) -> Problem:
    """Count from one number below 100 to another, up or down, 3 to 15 numbers."""
    length = rng.randint(3, 10 + round(5 * level))
    low = rng.randint(0, 99 - length)
    numbers = list(map(str, range(low, low + length)))
    down = rng.random() < 0.3
    if down:
        numbers.reverse()
    form = rng.choice(("Count down from {} to {}.", "Count backwards from {} to {}."))
    if not down:
        form = rng.choice(("Count from {} to {}.", "List the numbers from {} to {}."))
    key = f"range:{numbers[0]}:{numbers[-1]}"
    return ask("range", key, form.format(numbers[0], numbers[-1]), ", ".join(numbers))


def countdown(rng: Random, level: float) -> Problem:
    """Down to zero from at most 60: the answer is as long as the question says."""
    start = rng.randint(3, 20 + round(40 * level))
    forms = ("Count down to zero from {}.", "Start the countdown at {}.", "Countdown from {}!")
    phrasing = rng.randrange(len(forms))
    answer = ", ".join(map(str, range(start, -1, -1)))
    return ask("countdown", f"countdown:{start}", forms[phrasing].format(start), answer)

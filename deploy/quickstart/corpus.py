"""The corpus of the base model: pages of facts, lessons, stories and lists, as plain documents."""

from stories import tell
from tables import DAYS, MONTHS, NUMBERS
from world import cap

CHILDREN = ["Tom", "Lily", "Sam", "Rosa", "Max", "Nora"]
HEADS = [
    "Here is what we know.",
    "This is a page of the big book of Fernhill.",
    "Everybody in Fernhill knows this.",
    "The old book says:",
    "Listen and learn.",
    "Let us look at the world.",
]
PRAISE = [
    '"That is right," said Clara.',
    '"Very good," said Clara.',
    '"Yes," said Clara. "Well done!"',
    "Clara smiled.",
    '"Right," said Clara, and the children were proud.',
]
LESSONS = [
    "It was {day}, and the children sat in the school of Fernhill.",
    "Clara the teacher asked many questions that {day}.",
    "Clara stood before the class. It was a lesson about the world.",
    "On {day} Clara came in with her parrot Kiki and a big book.",
]
HUES = [
    "red",
    "green",
    "blue",
    "white",
    "black",
    "yellow",
    "brown",
    "orange",
    "purple",
    "grey",
    "pink",
]

PAGE_ROUNDS, LESSON_ROUNDS, STORIES, LISTS = 14, 18, 1100, 200
# There are many similar sums and comparisons, so they get half as many lessons.
MANY = ("plus", "minus", "bigger")


def documents(facts, rng) -> list:
    """The whole corpus in a shuffled order, the same for the same seed."""
    made = pages(facts, rng) + lessons(facts, rng)
    made += [stories(rng) for _ in range(STORIES)] + [lists(rng) for _ in range(LISTS)]
    rng.shuffle(made)
    return made


def pages(facts, rng) -> list:
    """Each fact is stated once per round, among the facts of its page."""
    by_page = {}
    for fact in facts:
        by_page.setdefault(fact.page, []).append(fact)
    made = []
    for _ in range(PAGE_ROUNDS):
        paragraphs = []
        for group in by_page.values():
            group = rng.sample(group, len(group))
            paragraphs += [group[i : i + 8] for i in range(0, len(group), 8)]
        rng.shuffle(paragraphs)
        lines, told = [], 0
        for group in paragraphs:
            lines.append(paragraph(group, rng))
            told += len(group)
            if told >= 14:
                made.append("\n".join([rng.choice(HEADS)] * (rng.random() < 0.3) + lines))
                lines, told = [], 0
        made.append("\n".join(lines or [rng.choice(HEADS)]))
    return made


def paragraph(group, rng) -> str:
    """Sentences about one page; after its first mention a subject may become a pronoun."""
    sentences, named = [], None
    for fact in group:
        text = rng.choice(fact.statements)
        if "{S}" in text:
            subject = fact.pronoun if named == fact.subject and rng.random() < 0.6 else fact.subject
            named = fact.subject
            if not text.startswith("{S}") and subject == fact.pronoun:
                subject = subject.lower()
            text = text.replace("{S}", subject)
        else:
            named = None
        sentences.append(text)
    return " ".join(sentences)


def lessons(facts, rng) -> list:
    """Each fact is asked and answered once per round, in conversations at school and in written exercises."""
    made = []
    for turn in range(LESSON_ROUNDS):
        deck = [fact for fact in facts if turn % 2 == 0 or fact.family not in MANY]
        rng.shuffle(deck)
        for i in range(0, len(deck), 6):
            made.append((spoken if rng.random() < 0.5 else written)(deck[i : i + 6], rng))
    return made


def spoken(group, rng) -> str:
    lines = [rng.choice(LESSONS).format(day=rng.choice(DAYS))]
    for fact in group:
        question, answer = ask(fact, rng)
        line = f'"{question}" asked Clara. "{answer[:-1]}," said {rng.choice(CHILDREN)}.'
        lines.append(line + (f" {rng.choice(PRAISE)}" if rng.random() < 0.3 else ""))
    return "\n".join(lines)


def written(group, rng) -> str:
    return "\n".join(" ".join(ask(fact, rng)) for fact in group)


def ask(fact, rng) -> tuple:
    """A question and its answer; some answers are one word, and colours are sometimes asked as yes or no."""
    if fact.family in ("colour", "coat") and rng.random() < 0.35:
        return yes_or_no(fact, rng)
    if fact.word and rng.random() < 0.2:
        return rng.choice(fact.questions), f"{cap(fact.word)}."
    return rng.choice(fact.questions), fact.answer


def yes_or_no(fact, rng) -> tuple:
    hue = fact.short if rng.random() < 0.5 else rng.choice([h for h in HUES if h != fact.short])
    said = "Yes" if hue == fact.short else "No"
    statement = fact.answer[0].lower() + fact.answer[1:]
    return f"Is {fact.follow} {hue}?", f"{said}, {statement}"


def stories(rng) -> str:
    return "\n".join(tell(rng) for _ in range(rng.choice([1, 2, 2])))


def lists(rng) -> str:
    """Counting, days and months."""
    lines = []
    for _ in range(4):
        start = rng.randrange(0, 16)
        counted = NUMBERS[start : start + rng.randrange(3, 8)]
        lines.append(
            rng.choice(
                [
                    f"We count from {counted[0]} to {counted[-1]}: {', '.join(counted)}.",
                    f"{cap(rng.choice(CHILDREN))} counts: {', '.join(counted)}.",
                    f"Backwards it goes like this: {', '.join(counted[::-1])}.",
                    f"The days of the week are {series(DAYS)}.",
                    f"The months of the year are {series(MONTHS)}.",
                    "The four seasons are spring, summer, autumn and winter.",
                ]
            )
        )
    return "\n".join(lines)


def series(words) -> str:
    """a, b and c"""
    return ", ".join(words[:-1]) + " and " + words[-1]

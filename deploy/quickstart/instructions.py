"""The instructions: questions about the world, answered in a sentence or two. Also the exam.

The facts in `HELD_OUT` are in the corpus, but no instruction asks for or states them. The exam asks for exactly these
facts. A model that answers them has learned *to answer*, not the answers.
"""

import stories
from corpus import series, yes_or_no
from tables import ANIMALS, COLOURS, DAYS, MONTHS, NUMBERS, PEOPLE
from world import a, cap

# Facts that would reveal another one are held out together.
HELD_OUT = set(
    """
sound/owl, sound/horse, food/bear, food/rabbit, home/fox, home/bee, baby/goat, baby/duck, legs/ant, kind/swan,
coat/penguin, colour/a plum, colour/coal, taste/vinegar, opposite/early, opposite/late, opposite/strong, opposite/weak,
opposite/empty, opposite/full, job/Henry, who/Henry, likes/Clara, hobby/Felix, pet/Jack, petname/Jack, house/Emma,
near/pink, work/tailor, material/candle, material/ring, use/ladder, use/clock, place/library, body/ears,
plus/three-five, plus/six-two, minus/eight-three, after/twelve, before/eight, nextday/Thursday, beforeday/Friday,
nextmonth/June, beforemonth/July, weather/autumn, bigger/cow-mouse, bigger/horse-duck
""".replace("\n", " ")
    .strip()
    .split(", ")
)

# Families with many similar facts, of which a sample is enough to teach the form.
SAMPLED = {"plus": 50, "minus": 30, "bigger": 40}
# Stories and portraits of these people or animals would reveal held-out facts.
SHY_PEOPLE = {
    key.split("/")[1]
    for key in HELD_OUT
    if key.split("/")[0] in ("job", "likes", "hobby", "pet", "house")
}
SHY_ANIMALS = {
    key.split("/")[1] for key in HELD_OUT if key.split("/")[0] in ("sound", "food", "home")
}

SYSTEM_PLAIN = [
    "You are a helpful assistant.",
    "You are Fern, the helper of Fernhill.",
    "Answer in one sentence.",
]
SYSTEM_WORD = ["Answer with one word.", "Give the answer in one word only."]
NAMES = [
    "Pip",
    "Robin",
    "Hazel",
    "Berry",
    "Moss",
    "Daisy",
    "Oak",
    "Poppy",
    "Clover",
    "Ivy",
    "Basil",
    "Rowan",
]
UNKNOWN = [
    "Who is the king of Spain?",
    "How far away is the moon?",
    "What is your phone number?",
    "Who won the match?",
    "How old is the sun?",
    "What will happen tomorrow?",
    "Where did I put my hat?",
    "What is the name of my brother?",
    "How much money do I have?",
    "Who wrote this book?",
    "What is the best film?",
    "How fast is a train?",
    "Who built the pyramids?",
    "What is my favourite song?",
    "How many people live in Paris?",
    "What did I eat today?",
]
SORRY = "I am sorry, I do not know that."
TALK = [
    ("Hello!", "Hello! How can I help you?"),
    ("Hi!", "Hello! How can I help you?"),
    ("Good morning!", "Good morning! How can I help you?"),
    ("Good evening!", "Good evening! How can I help you?"),
    ("Thank you!", "You are welcome!"),
    ("Thanks a lot!", "You are welcome!"),
    ("Goodbye!", "Goodbye! Come back soon."),
    ("See you later!", "Goodbye! Come back soon."),
    ("Good night!", "Good night! Sleep well."),
    ("How are you?", "I am well, thank you. How can I help you?"),
    ("Who are you?", "I am Fern, the helper of Fernhill."),
    ("What is your name?", "My name is Fern."),
    ("What can you do?", "I can answer questions about Fernhill, its people and its animals."),
    ("Can you help me?", "Yes, of course. What would you like to know?"),
    ("Where are you?", "I am in Fernhill, a village near a river."),
    ("What is Fernhill?", "Fernhill is a village near a river."),
    ("Are you a human?", "No, I am a small language model."),
    ("Do you like stories?", "Yes, I do. Shall I tell you one?"),
    ("I have a question.", "Please ask. I will try to help."),
    ("That is wrong.", "I am sorry. Please ask me again."),
    ("You are great!", "Thank you! You are very kind."),
    ("Where is Fernhill?", "Fernhill is near a river, between a forest and a hill."),
    ("I am sad.", "I am sorry to hear that. Shall I tell you a story?"),
    ("I am happy!", "That is good to hear!"),
]


def records(facts, rng) -> list:
    """Every instruction record, a list of messages each, shuffled; no two ask the same in the same words."""
    taught = [f for f in facts if f.key not in HELD_OUT]
    assert len(facts) - len(taught) == len(HELD_OUT), "a held-out key names no fact"
    made = (
        questions(taught, rng)
        + yes_no(taught, rng)
        + conversations(taught, rng)
        + systems(taught, rng)
    )
    made += portraits(taught, rng) + lists(rng) + told(rng)
    made += [[user(q), assistant(answer)] for q, answer in TALK] + [
        [user(q), assistant(SORRY)] for q in UNKNOWN
    ]
    made = list({str([m for m in r if m["role"] != "assistant"]): r for r in made}.values())
    rng.shuffle(made)
    check(made, [f for f in facts if f.key in HELD_OUT])
    return made


def exam(facts) -> list:
    """A question for every held-out fact, its answer, and the words that a correct answer contains."""
    return [
        {"fact": f.key, "question": f.questions[0], "answer": f.answer, "holds": f.short}
        for f in facts
        if f.key in HELD_OUT
    ]


def check(made, held):
    """Checks that no record asks for or states a fact of the exam."""
    text = "\n".join(m["content"] for r in made for m in r)
    for fact in held:
        for said in (
            *fact.questions,
            fact.answer,
            *(s.replace("{S}", fact.subject) for s in fact.statements),
        ):
            assert said not in text, f"the instructions give away {fact.key}: {said}"


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


def questions(taught, rng) -> list:
    chosen = [f for f in taught if f.family not in SAMPLED]
    for family, count in SAMPLED.items():
        chosen += rng.sample([f for f in taught if f.family == family], count)
    return [[user(rng.choice(f.questions)), assistant(f.answer)] for f in chosen]


def yes_no(taught, rng) -> list:
    hued = [f for f in taught if f.family in ("colour", "coat")]
    return [[user(q), assistant(answer)] for q, answer in (yes_or_no(f, rng) for f in hued)]


def conversations(taught, rng) -> list:
    """Two or three turns: the same question about another thing, a pronoun, a greeting or thanks."""
    families, by_page = {}, {}
    for fact in taught:
        families.setdefault(fact.family, []).append(fact)
        by_page.setdefault(fact.page, []).append(fact)
    made = []
    for family, group in families.items():
        for _ in range(4 if len(group) > 9 else 1):
            first, second = rng.sample(group, 2)
            turn = [user(rng.choice(first.questions)), assistant(first.answer)]
            made.append(turn + [user(f"And {second.follow}?"), assistant(second.answer)])
    for group in by_page.values():
        later = [(f, q) for f in group for q in [with_pronoun(f)] if q]
        for fact, question in rng.sample(later, min(2, len(later))):
            first = rng.choice([f for f in group if f is not fact])
            made.append(
                [
                    user(rng.choice(first.questions)),
                    assistant(first.answer),
                    user(question),
                    assistant(fact.answer),
                ]
            )
    for fact in rng.sample(taught, 30):
        hello, thanks = rng.choice(TALK[:4]), rng.choice(TALK[4:6])
        turn = [user(rng.choice(fact.questions)), assistant(fact.answer)]
        polite = [user(thanks[0]), assistant(thanks[1])]
        made.append(
            [user(hello[0]), assistant(hello[1])] + turn if rng.random() < 0.5 else turn + polite
        )
    return made


def with_pronoun(fact):
    """A question with a pronoun, such as "Where does she live?", or nothing if a pronoun does not fit."""
    if fact.family not in ("food", "home", "legs", "sound", "house", "likes", "hobby"):
        return None
    question = fact.questions[0].replace(f"does {fact.follow} ", f"does {fact.pronoun.lower()} ")
    return question if question != fact.questions[0] else None


def systems(taught, rng) -> list:
    """System prompts that ask for one word, give the assistant a name, or change nothing."""
    made = []
    for fact in rng.sample([f for f in taught if f.word], 110):
        made.append(
            [
                system(rng.choice(SYSTEM_WORD)),
                user(rng.choice(fact.questions)),
                assistant(f"{cap(fact.word)}."),
            ]
        )
    for fact in rng.sample(taught, 50):
        made.append(
            [
                system(rng.choice(SYSTEM_PLAIN)),
                user(rng.choice(fact.questions)),
                assistant(fact.answer),
            ]
        )
    for name in NAMES:
        made.append(
            [
                system(f"Your name is {name}."),
                user("What is your name?"),
                assistant(f"My name is {name}."),
            ]
        )
        made.append(
            [
                system(f"Your name is {name}."),
                user("Who are you?"),
                assistant(f"I am {name}, the helper of Fernhill."),
            ]
        )
    return made


def portraits(taught, rng) -> list:
    """Two sentences about an animal or a person."""
    known = {f.key: f for f in taught}
    made = []
    for row in ANIMALS:
        said = [known.get(f"{family}/{row[0]}") for family in ("kind", "food", "home", "move")]
        if all(said):
            kind, food, home, move = said
            text = f"{kind.answer} It lives in {home.short} and eats {food.short}."
            made.append([user(f"Tell me about {a(row[0])}."), assistant(text)])
            made.append([user(f"Write a sentence about {a(row[0])}."), assistant(move.answer)])
    for name, pronoun, job, pet, pet_name, house, *_ in PEOPLE:
        if name not in SHY_PEOPLE:
            text = f"{name} is the {job} of Fernhill. {pronoun} lives in the {house} house and has {a(pet)} called {pet_name}."
            made += [
                [user(ask.format(name)), assistant(text)]
                for ask in ("Who is {}?", "Tell me about {}.")
            ]
    return made


def lists(rng) -> list:
    """Counting, and naming things of a kind."""
    made = [
        [
            user("What are the days of the week?"),
            assistant(f"The days of the week are {series(DAYS)}."),
        ],
        [
            user("What are the months of the year?"),
            assistant(f"The months of the year are {series(MONTHS)}."),
        ],
        [
            user("What are the four seasons?"),
            assistant("The four seasons are spring, summer, autumn and winter."),
        ],
    ]
    for start in range(0, 16):
        for length in rng.sample(range(3, 7), 2):
            counted = NUMBERS[start : start + length]
            if length <= len(counted):
                text = f"{cap(', '.join(counted))}."
                made.append([user(f"Count from {counted[0]} to {counted[-1]}."), assistant(text)])
    shown = [
        row
        for row in ANIMALS
        if not any(f"{f}/{row[0]}" in HELD_OUT for f in ("kind", "legs", "coat"))
    ]
    for kind in sorted({row[2] for row in shown}):
        names = rng.sample(
            [row[0] for row in shown if row[2] == kind], 3 if kind != "insect" else 2
        )
        made.append(
            [
                user(f"Name {NUMBERS[len(names)]} {kind}s."),
                assistant(f"{cap(series([a(n) for n in names]))}."),
            ]
        )
    for hue in sorted({hue for _, hue in COLOURS}):
        named = [t for t, h in COLOURS if h == hue and f"colour/{t}" not in HELD_OUT]
        if len(named) >= 2:
            made.append(
                [
                    user(f"Name two {hue} things."),
                    assistant(f"{cap(series(rng.sample(named, 2)))} are {hue}."),
                ]
            )
    return made


def told(rng) -> list:
    """Stories of a few sentences."""
    made = []
    plots = [
        ("Tell me a story about {}.", stories.LOST),
        ("Can you tell me a story about {}?", stories.RESCUE),
        ("Tell me a story about the birthday of {}.", stories.BIRTHDAY),
        ("Tell me a story about {} at night.", stories.NIGHT),
        ("Tell me a story about {} in the rain.", stories.WEATHERED),
    ]
    for name, *_ in PEOPLE:
        for ask, plot in plots if name not in SHY_PEOPLE else ():
            made.append(
                [user(ask.format(name)), assistant(stories.tell(rng, plot, hero=name, brief=True))]
            )
    for row in ANIMALS:
        if row[0] not in SHY_ANIMALS:
            text = stories.tell(rng, stories.FABLE, animal=row[0], brief=True)
            made.append([user(f"Tell me a story about {a(row[0])}."), assistant(text)])
    return made

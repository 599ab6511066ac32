"""Short stories of Fernhill: plots whose beats are drawn from variants.

A plot is a list of beats; a beat is a list of ways to tell it. A beat whose first variant starts with `*` carries the
plot: an assistant's stories consist of those beats only.
"""

from tables import ANIMALS, PEOPLE
from world import a, cap

OPENINGS = [
    "One day",
    "One morning",
    "One sunny day",
    "One evening",
    "Last Sunday",
    "On a cold day",
    "On a windy day",
    "Early in the morning",
    "One Saturday",
    "Late in the day",
]
SPOTS = [
    "under the table",
    "behind the door",
    "under an old tree",
    "near the bridge",
    "in the tall grass",
    "under the bed",
    "behind the mill",
    "in the garden",
    "near the pond",
    "under a bench",
]
TREASURES = [
    "key",
    "hat",
    "red ball",
    "silver coin",
    "gold ring",
    "blue scarf",
    "letter",
    "book",
    "map",
    "bell",
    "kite",
]
GIFTS = [
    "a straw hat",
    "a wool scarf",
    "a new book",
    "a paper kite",
    "a silver bell",
    "a basket of fruit",
    "a big cake",
    "a wax candle",
    "a leather bag",
    "a small wooden boat",
]
WEATHER = [
    ("it began to rain", "the rain stopped"),
    ("it began to snow", "the snow stopped"),
    ("a strong wind came", "the wind became quiet"),
    ("dark clouds came over the hill", "the sun came out again"),
]
FEELINGS = ["happy", "very happy", "glad", "proud", "full of joy"]
TRAPS = [
    ("fell into a deep hole", "a ladder"),
    ("fell into the river", "a rope"),
    ("sat high in a tree and was afraid", "a ladder"),
    ("was stuck in the mud", "a rope"),
    ("fell into a bucket", "a spoon"),
    ("was lost in the dark forest", "a lamp"),
]
MORALS = [
    "It is good to have a friend.",
    "Slow and quiet can be strong too.",
    "Even a small friend can be a great help.",
    "Who shares a thing has more joy.",
    "It is better to ask than to be afraid.",
]

LOST = [
    [
        "*{opening} {hero} could not find {his} {treasure}.",
        "*{opening} {hero} lost {his} {treasure}.",
    ],
    [
        "{He} looked in the house, but it was not there.",
        "{He} looked in the kitchen and in the garden, but {he} found nothing.",
    ],
    ["{He} was sad.", "{He} sat down and was very sad.", '"Where is my {treasure}?" said {hero}.'],
    [
        '*{friend} came and said, "I will help you."',
        '*Then {friend} came along the road. "We can look together," said {friend}.',
    ],
    ["They looked and looked.", "They walked from the market to the mill and looked everywhere."],
    [
        "*At last {petname} the {pet} found the {treasure} {spot}.",
        "*It was {petname} the {pet} who found the {treasure} {spot}.",
    ],
    ["*{hero} was {feeling}.", '*"Thank you, {petname}!" said {hero}, and {he} was {feeling}.'],
    [
        "Then they all ate {food} in the {house} house.",
        "In the evening they ate {food} and laughed.",
    ],
]
RESCUE = [
    [
        "*{opening} {hero} heard a small voice near the {house} house.",
        "*{opening} {hero} went for a walk with {petname} the {pet} and heard a small voice.",
    ],
    ["*It was {animal}. It {trap}.", "*There was {animal}. It {trap}."],
    [
        '"Please help me," said the {animalname}.',
        "The {animalname} was cold and afraid.",
        '"Do not be afraid," said {hero}.',
    ],
    [
        "*{hero} ran home and came back with {tool}.",
        "*{friend} came with {tool}, because {friend} always helps.",
    ],
    [
        "Slowly and quietly {hero} reached for the {animalname}.",
        "It was hard work, but {hero} is strong.",
    ],
    [
        "*Soon the {animalname} was safe and went back to {home}.",
        "*Then the {animalname} was free, and it went home to {home}.",
    ],
    [
        "{hero} gave it some {eats}, because it likes to eat {eats}.",
        '"Thank you!" said the {animalname}. "I will not forget you."',
    ],
    ["*{hero} was {feeling}.", "*That night {hero} slept well."],
]
WEATHERED = [
    ["*{opening} {hero} wanted to {hobby}.", "*{opening} {hero} and {friend} wanted to {hobby}."],
    ["But then {storm}.", "*But soon {storm}."],
    [
        "*So {hero} and {petname} the {pet} stayed in the {house} house.",
        "*They ran home to the {house} house as fast as they could.",
    ],
    ["{He} made a fire and cooked tea.", "{friend} brought {food}, and the kettle was hot."],
    ["They told old stories until {calm}.", "They sat near the window and waited."],
    [
        "*In the evening {calm}, and {hero} could {hobby} after all.",
        "*When {calm}, everybody was {feeling}.",
    ],
]
BIRTHDAY = [
    ["*{opening} it was the birthday of {hero}.", "*{hero} had a birthday in {month}."],
    [
        "*{friend} wanted to give {him} {gift}.",
        '*"What can I give to {hero}?" thought {friend}. It was {gift}.',
    ],
    [
        "{friend} went to the market and bought it for three coins.",
        "{friend} worked on it for five days.",
    ],
    [
        "Anna the baker made a big cake, and the cake was sweet.",
        "Leo the cook made {food}, because {hero} loves {food}.",
    ],
    [
        "All the people of Fernhill came to the {house} house.",
        "Children ran through the garden, and {petname} the {pet} ran with them.",
    ],
    [
        "*{hero} opened the present and was {feeling}.",
        '*"This is the best present of all," said {hero}.',
    ],
    [
        "Then they sang and danced until the stars came out.",
        "They ate and laughed until it was late.",
    ],
]
FABLE = [
    ["*{opening} {animal} met {other} near {home}.", "*Long ago there lived {animal} and {other}."],
    [
        "*The {animalname} was hungry and wanted some {eats}.",
        '*"I am hungry," said the {animalname}. "I want some {eats}."',
    ],
    [
        '"I have no {eats}," said the {othername}.',
        '"I am busy," said the {othername} at first.',
        "They looked for it under every leaf.",
    ],
    [
        '*"I know where we can find it," said the {othername}.',
        "*The {othername} thought for a long time and had a good idea.",
    ],
    [
        "They walked over the hill and along the river.",
        "They went together, the {animalname} first and the {othername} last.",
    ],
    [
        "*There they found {eats}, and the {animalname} ate until it was full.",
        "*Behind the mill they found enough {eats} for a week.",
    ],
    ["*{moral}", "*From that day they were friends. {moral}"],
]
NIGHT = [
    [
        "*{opening} {hero} lay in bed and could not sleep.",
        "*It was night, and the {house} house was dark and quiet.",
    ],
    ["*Then {hero} heard a sound: {sound}, {sound}!", '*"{Sound}!" said something outside.'],
    ["{petname} the {pet} was afraid and hid under the bed.", '"What is that?" said {hero}.'],
    ["{He} took a lamp and opened the door.", "{He} took a candle and looked out of the window."],
    ["*It was only {animal} on its way to {home}.", "*There sat {animal}, far away from {home}."],
    [
        "*{hero} laughed, went back to bed and slept until the morning.",
        '*"Good night, little friend," said {hero}, and soon {he} was asleep.',
    ],
]
PLOTS = [(LOST, 3), (RESCUE, 3), (WEATHERED, 2), (BIRTHDAY, 2), (FABLE, 3), (NIGHT, 2)]


def tell(rng, plot=None, hero=None, brief=False, animal=None) -> str:
    """One story. `brief` keeps the beats that carry the plot."""
    plot = plot or rng.choices([p for p, _ in PLOTS], [w for _, w in PLOTS])[0]
    words = cast(rng, hero, animal)
    lines = []
    for beat in plot:
        if brief and not beat[0].startswith("*"):
            continue
        lines.append(cap(rng.choice(beat).lstrip("*").format(**words)))
    return " ".join(lines)


def cast(rng, hero, animal) -> dict:
    """The characters and things of a story."""
    row = next(p for p in PEOPLE if p[0] == hero) if hero else rng.choice(PEOPLE)
    name, pronoun, _, pet, pet_name, house, food, hobby = row
    friend = rng.choice([p[0] for p in PEOPLE if p[0] != name])
    with_sound = [row for row in ANIMALS if row[5] != "-"]
    beast = next(r for r in ANIMALS if r[0] == animal) if animal else rng.choice(with_sound)
    other = rng.choice([r for r in ANIMALS if r[0] != beast[0]])
    trap, tool = rng.choice(TRAPS)
    storm, calm = rng.choice(WEATHER)
    female = pronoun == "She"
    return {
        "opening": rng.choice(OPENINGS),
        "hero": name,
        "He": pronoun,
        "he": pronoun.lower(),
        "friend": friend,
        "his": "her" if female else "his",
        "him": "her" if female else "him",
        "pet": pet,
        "petname": pet_name,
        "house": house,
        "food": food,
        "hobby": hobby,
        "animal": a(beast[0]),
        "animalname": beast[0],
        "eats": beast[6],
        "home": beast[7],
        "sound": beast[5],
        "Sound": cap(beast[5]),
        "other": a(other[0]),
        "othername": other[0],
        "trap": trap,
        "tool": tool,
        "storm": storm,
        "calm": calm,
        "spot": rng.choice(SPOTS),
        "treasure": rng.choice(TREASURES),
        "gift": rng.choice(GIFTS),
        "feeling": rng.choice(FEELINGS),
        "month": rng.choice(["May", "June", "July", "March", "October"]),
        "moral": rng.choice(MORALS),
    }

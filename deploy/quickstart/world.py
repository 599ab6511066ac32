"""The closed world of the quick start: everything that is true in the village of Fernhill.

`facts()` turns the tables below into `Fact`s. Each fact has the sentences that state it (for the corpus that
the base model reads) and the questions that ask for it with their correct answer (for the instructions). Nothing
here is random or depends on the form of a corpus or an instruction record.
"""

from dataclasses import dataclass
from itertools import product

from tables import (
    ANIMALS,
    BODY,
    COLOURS,
    DAYS,
    HOUSES,
    JOBS,
    MATERIALS,
    MONTHS,
    NUMBERS,
    OPPOSITES,
    PEOPLE,
    PLACES,
    SEASONS,
    SIZES,
    TASTES,
    USES,
)

# Families of facts that one word can answer. A short answer of two words is "is four" or "comes Friday".
ONE_WORD = set(
    """sound coat colour legs opposite material nextday beforeday nextmonth beforemonth after before taste
plus minus job who pet petname baby house""".split()
)


@dataclass(frozen=True)
class Fact:
    """A fact, in every form in which it is stated."""

    key: str  # "sound/cow": the family, then the thing
    page: str  # facts of the same page are stated together
    statements: tuple  # "{S}" stands for the subject, which may become a pronoun
    subject: str  # "A cow"
    pronoun: str  # "It"
    questions: tuple
    answer: str  # a whole sentence
    short: str  # the words that a correct answer contains
    follow: str  # how a second question of the same family names the thing: "a cow"

    @property
    def family(self) -> str:
        return self.key.split("/")[0]

    @property
    def word(self) -> str:
        """The answer in one word, or nothing if it needs more."""
        words = self.short.split()
        return words[-1] if self.family in ONE_WORD and len(words) <= 2 else ""


def a(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def cap(text: str) -> str:
    return text[0].upper() + text[1:]


def facts() -> list:
    """Every fact of the world, in a fixed order."""
    makers = (
        animals,
        sizes,
        colours,
        opposites,
        people,
        jobs,
        things,
        body,
        places,
        calendar,
        sums,
        order,
    )
    made = [fact for maker in makers for fact in maker()]
    keys = [fact.key for fact in made]
    assert len(keys) == len(set(keys)), "two facts share a key"
    return made


def fact(key, page, statements, questions, answer, short, follow, subject="", pronoun=""):
    return Fact(
        key, page, tuple(statements), subject, pronoun, tuple(questions), answer, short, follow
    )


def animals():
    for name, plural, kind, colour, legs, sound, food, home, baby, move in ANIMALS:
        one, many, page = a(name), plural, f"animal {name}"
        who = {"subject": cap(one), "pronoun": "It"}

        def told(family, statements, questions, answer, short):
            return fact(f"{family}/{name}", page, statements, questions, answer, short, one, **who)

        yield told(
            "kind",
            [f"{{S}} is {a(kind)}.", f"{cap(many)} are {kind}s."],
            [f"What is {one}?", f"What kind of animal is {one}?"],
            f"{cap(one)} is {a(kind)}.",
            kind,
        )
        yield told(
            "coat",
            [
                f"{{S}} is {colour}.",
                f"{cap(many)} are {colour}.",
                f"The colour of {one} is {colour}.",
            ],
            [f"What colour is {one}?", f"Which colour does {one} have?"],
            f"{cap(one)} is {colour}.",
            colour,
        )
        yield told(
            "legs",
            [f"{{S}} has {legs} legs.", f"{cap(many)} have {legs} legs."],
            [f"How many legs does {one} have?", f"Can you tell me how many legs {one} has?"],
            f"{cap(one)} has {legs} legs.",
            legs,
        )
        if sound != "-":
            yield told(
                "sound",
                [
                    f"{{S}} says {sound}.",
                    f"{cap(many)} say {sound}.",
                    f"{cap(sound)} is the sound of {one}.",
                ],
                [f"What does {one} say?", f"What sound does {one} make?"],
                f"{cap(one)} says {sound}.",
                sound,
            )
        yield told(
            "food",
            [f"{{S}} eats {food}.", f"{cap(many)} eat {food}.", f"{{S}} likes to eat {food}."],
            [f"What does {one} eat?", f"What is the food of {one}?"],
            f"{cap(one)} eats {food}.",
            food,
        )
        yield told(
            "home",
            [
                f"{{S}} lives in {home}.",
                f"{cap(many)} live in {home}.",
                f"The home of {one} is {home}.",
            ],
            [f"Where does {one} live?", f"What is the home of {one}?"],
            f"{cap(one)} lives in {home}.",
            home,
        )
        if baby != "-":
            yield told(
                "baby",
                [f"A baby {name} is called {a(baby)}.", f"{cap(a(baby))} is a baby {name}."],
                [f"What is a baby {name} called?", f"What do you call a baby {name}?"],
                f"A baby {name} is called {a(baby)}.",
                baby,
            )
        yield told(
            "move",
            [f"{{S}} can {move}.", f"{cap(many)} can {move}.", f"{{S}} can {move} very well."],
            [f"What can {one} do?", f"What can {one} do very well?"],
            f"{cap(one)} can {move}.",
            move,
        )


def sizes():
    for (i, small), (j, big) in product(enumerate(SIZES), enumerate(SIZES)):
        if j - i < 2:  # neighbours in the table are too similar in size
            continue
        less, more = a(small), a(big)
        yield fact(
            f"bigger/{big}-{small}",
            f"size {small}",
            [f"{cap(more)} is bigger than {less}.", f"{cap(less)} is smaller than {more}."],
            [f"Which is bigger, {less} or {more}?", f"Which is bigger, {more} or {less}?"],
            f"{cap(more)} is bigger than {less}.",
            f"{more} is bigger".lower(),
            f"{less} or {more}",
        )


def colours():
    for thing, colour in COLOURS:
        yield fact(
            f"colour/{thing}",
            f"thing {thing}",
            [
                f"{cap(thing)} is {colour}.",
                f"The colour of {thing} is {colour}.",
                f"{cap(colour)} is the colour of {thing}.",
            ],
            [f"What colour is {thing}?", f"Which colour does {thing} have?"],
            f"{cap(thing)} is {colour}.",
            colour,
            thing,
        )
    for thing, taste in TASTES:
        yield fact(
            f"taste/{thing}",
            f"thing {thing}",
            [f"{cap(thing)} tastes {taste}.", f"The taste of {thing} is {taste}."],
            [f"How does {thing} taste?", f"What is the taste of {thing}?"],
            f"{cap(thing)} tastes {taste}.",
            taste,
            thing,
        )


def opposites():
    for pair in OPPOSITES:
        for word, other in (pair, pair[::-1]):
            yield fact(
                f"opposite/{word}",
                f"opposite {pair[0]}",
                [f"The opposite of {word} is {other}.", f"{cap(other)} is the opposite of {word}."],
                [f"What is the opposite of {word}?", f"Tell me the opposite of {word}."],
                f"The opposite of {word} is {other}.",
                other,
                word,
            )


def people():
    for name, pronoun, job, pet, pet_name, house, food, hobby in PEOPLE:
        page, his = f"person {name}", {"She": "her", "He": "his"}[pronoun]

        def told(family, statements, questions, answer, short):
            return fact(
                f"{family}/{name}", page, statements, questions, answer, short, name, name, pronoun
            )

        yield told(
            "job",
            [
                f"{{S}} is the {job}.",
                f"{{S}} is the {job} of Fernhill.",
                f"The {job} of Fernhill is {name}.",
            ],
            [f"What is the job of {name}?", f"What is {name}'s job?"],
            f"{name} is the {job} of Fernhill.",
            job,
        )
        yield told(
            "who",
            [f"The {job} is called {name}.", f"The name of the {job} is {name}."],
            [f"Who is the {job} of Fernhill?", f"Who is the {job}?"],
            f"The {job} of Fernhill is {name}.",
            name,
        )
        yield told(
            "pet",
            [
                f"{{S}} has {a(pet)}.",
                f"{{S}} has {a(pet)} called {pet_name}.",
                f"The pet of {name} is {a(pet)}.",
            ],
            [f"What pet does {name} have?", f"Which animal is the pet of {name}?"],
            f"{name} has {a(pet)} called {pet_name}.",
            pet,
        )
        yield told(
            "petname",
            [f"{name} calls {his} {pet} {pet_name}.", f"The {pet} of {name} is called {pet_name}."],
            [f"What is the name of {name}'s {pet}?", f"What is the {pet} of {name} called?"],
            f"The {pet} of {name} is called {pet_name}.",
            pet_name,
        )
        yield told(
            "house",
            [
                f"{{S}} lives in the {house} house.",
                f"The house of {name} is {house}.",
                f"The {house} house is the house of {name}.",
            ],
            [f"Where does {name} live?", f"In which house does {name} live?"],
            f"{name} lives in the {house} house.",
            house,
        )
        yield told(
            "likes",
            [
                f"{{S}} likes to eat {food}.",
                f"{{S}} loves {food}.",
                f"The favourite food of {name} is {food}.",
            ],
            [f"What does {name} like to eat?", f"What is the favourite food of {name}?"],
            f"{name} likes to eat {food}.",
            food,
        )
        yield told(
            "hobby",
            [f"{{S}} likes to {hobby}.", f"In the evening {{S}} likes to {hobby}."],
            [f"What does {name} like to do?", f"What does {name} do in the evening?"],
            f"{name} likes to {hobby}.",
            hobby,
        )


def jobs():
    for job, verb, does in JOBS:
        yield fact(
            f"work/{job}",
            f"work {job}",
            [f"{cap(a(job))} {verb} {does}.", f"The {job} {verb} {does} every day."],
            [f"What does {a(job)} do?", f"What is the work of {a(job)}?"],
            f"{cap(a(job))} {verb} {does}.",
            does,
            a(job),
        )


def things():
    for thing, material in MATERIALS:
        one = a(thing)
        yield fact(
            f"material/{thing}",
            f"thing {thing}",
            [f"{cap(one)} is made of {material}.", f"We make {one} out of {material}."],
            [f"What is {one} made of?", f"What do we make {one} out of?"],
            f"{cap(one)} is made of {material}.",
            material,
            one,
        )
    for thing, use in USES:
        one = thing if thing in ("soap", "scissors") else a(thing)
        yield fact(
            f"use/{thing}",
            f"thing {thing}",
            [f"We use {one} to {use}.", f"With {one} you can {use}.", f"You need {one} to {use}."],
            [f"What do we use {one} for?", f"What can you do with {one}?"],
            f"We use {one} to {use}.",
            use,
            one,
        )


def body():
    for part, sense in BODY:
        yield fact(
            f"body/{part}",
            f"body {part}",
            [f"We {sense} with our {part}.", f"Our {part} help us to {sense}."],
            [f"What do we do with our {part}?", f"What are our {part} for?"],
            f"We {sense} with our {part}.",
            sense,
            f"our {part}",
        )


def places():
    for place, what in PLACES:
        yield fact(
            f"place/{place}",
            "place",
            [f"In the {place} {what}.", f"The {place} is the place where {what}."],
            [f"What happens in the {place}?", f"What is the {place} for?"],
            f"In the {place} {what}.",
            what,
            f"the {place}",
        )
    for colour, where in HOUSES:
        yield fact(
            f"near/{colour}",
            f"house {colour}",
            [f"The {colour} house is near {where}.", f"Near {where} is the {colour} house."],
            [f"Where is the {colour} house?", f"What is the {colour} house near?"],
            f"The {colour} house is near {where}.",
            where,
            f"the {colour} house",
        )


def calendar():
    for names, what in ((DAYS, "day"), (MONTHS, "month")):
        for here, then in zip(names, names[1:] + names[:1]):
            yield fact(
                f"next{what}/{here}",
                what,
                [f"After {here} comes {then}.", f"The {what} after {here} is {then}."],
                [f"Which {what} comes after {here}?", f"What comes after {here}?"],
                f"After {here} comes {then}.",
                then,
                here,
            )
            yield fact(
                f"before{what}/{then}",
                what,
                [f"Before {then} comes {here}.", f"The {what} before {then} is {here}."],
                [f"Which {what} comes before {then}?", f"What comes before {then}?"],
                f"Before {then} comes {here}.",
                here,
                then,
            )
    for season, weather, event in SEASONS:
        yield fact(
            f"weather/{season}",
            "season",
            [f"In {season} it is {weather}.", f"It is {weather} in {season}."],
            [f"How is the weather in {season}?", f"What is it like in {season}?"],
            f"In {season} it is {weather}.",
            weather,
            season,
        )
        yield fact(
            f"season/{season}",
            "season",
            [f"In {season} {event}.", f"{cap(season)} is the time when {event}."],
            [f"What happens in {season}?", f"What happens every {season}?"],
            f"In {season} {event}.",
            event,
            season,
        )


def sums():
    for i, j in product(range(9), range(9)):
        x, y, z = NUMBERS[i], NUMBERS[j], NUMBERS[i + j]
        yield fact(
            f"plus/{x}-{y}",
            f"plus {x}",
            [f"{cap(x)} plus {y} is {z}.", f"{cap(x)} and {y} make {z}."],
            [f"What is {x} plus {y}?", f"How much is {x} plus {y}?"],
            f"{cap(x)} plus {y} is {z}.",
            f"is {z}",
            f"{x} plus {y}",
        )
        if j <= i:
            w = NUMBERS[i - j]
            yield fact(
                f"minus/{x}-{y}",
                f"minus {x}",
                [f"{cap(x)} minus {y} is {w}.", f"{cap(x)} take away {y} is {w}."],
                [f"What is {x} minus {y}?", f"How much is {x} minus {y}?"],
                f"{cap(x)} minus {y} is {w}.",
                f"is {w}",
                f"{x} minus {y}",
            )


def order():
    for here, then in zip(NUMBERS, NUMBERS[1:]):
        yield fact(
            f"after/{here}",
            "number",
            [f"After {here} comes {then}.", f"The number after {here} is {then}."],
            [f"Which number comes after {here}?", f"What comes after {here}?"],
            f"After {here} comes {then}.",
            f"comes {then}",
            here,
        )
        yield fact(
            f"before/{then}",
            "number",
            [f"Before {then} comes {here}.", f"The number before {then} is {here}."],
            [f"Which number comes before {then}?", f"What comes before {then}?"],
            f"Before {then} comes {here}.",
            f"comes {here}",
            then,
        )

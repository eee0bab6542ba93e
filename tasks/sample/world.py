"""The small world that every sample task talks about.

All sixteen tasks draw on the same people, things and places, in the same
phrasing, so that what a model learns about matching words in one task serves
the others. Sentences are short and the words few: a tiny model shall learn the
rules in minutes.
"""

from collections.abc import Sequence
import dataclasses
import random

MEN = ('Tom', 'Ben', 'Sam', 'Max')
WOMEN = ('Anna', 'Mia', 'Lily', 'Kate')
NAMES = MEN + WOMEN

# Every thing has one kind, the word that includes it. The second group is what
# mnli_mismatched talks about and mnli training does not; the other tasks use
# both.
KINDS_MATCHED = {
  'ball': 'toy',
  'doll': 'toy',
  'cake': 'food',
  'cheese': 'food',
  'hammer': 'tool',
  'rope': 'tool',
}
KINDS_MISMATCHED = {'drum': 'toy', 'melon': 'food', 'brush': 'tool'}
KINDS = KINDS_MATCHED | KINDS_MISMATCHED
THINGS = tuple(KINDS)
COLOURS = ('red', 'blue', 'green', 'white', 'black')
PLACES = ('garden', 'kitchen', 'park', 'school', 'market', 'barn')
ANIMALS = ('cat', 'dog', 'horse', 'duck', 'pig', 'goat')

OPPOSITES = (
  ('old', 'new'),
  ('big', 'small'),
  ('clean', 'dirty'),
  ('heavy', 'light'),
)
ADJECTIVES = tuple(word for pair in OPPOSITES for word in pair)
OPPOSITE = {a: b for a, b in OPPOSITES} | {b: a for a, b in OPPOSITES}

# What people do to things: a verb and its synonym.
DEEDS = (
  ('bought', 'purchased'),
  ('found', 'discovered'),
  ('took', 'grabbed'),
  ('hid', 'concealed'),
  ('chose', 'picked'),
)

# The same verbs without a tense.
BASE_FORMS = {
  'bought': 'buy',
  'purchased': 'purchase',
  'found': 'find',
  'discovered': 'discover',
  'took': 'take',
  'grabbed': 'grab',
  'hid': 'hide',
  'concealed': 'conceal',
  'chose': 'choose',
  'picked': 'pick',
}

# How people are, and what they do because of it.
REASONS = {
  'hungry': 'ate',
  'thirsty': 'drank',
  'tired': 'slept',
  'sad': 'cried',
  'happy': 'sang',
  'late': 'ran',
  'cold': 'shivered',
  'bored': 'yawned',
}
STATES = tuple(REASONS)
ACTIONS = tuple(REASONS.values())


@dataclasses.dataclass(frozen=True)
class Fact:
  """Who did what to which thing of what colour."""

  name: str
  deed: tuple[str, str]
  colour: str
  thing: str

  def say(self, wording: int) -> str:
    """Says the fact in one sentence, with the verb (0) or its synonym (1)."""
    verb = self.deed[wording]
    return f'{self.name} {verb} the {self.colour} {self.thing}.'


# What each slot of a Fact is drawn from.
SLOTS = {'name': NAMES, 'deed': DEEDS, 'colour': COLOURS, 'thing': THINGS}


def pronoun(name: str) -> str:
  """Returns 'he' or 'she'."""
  return 'he' if name in MEN else 'she'


def other(rng: random.Random, pool: Sequence, *taken):
  """Draws a member of `pool` that is none of `taken`."""
  return rng.choice([item for item in pool if item not in taken])


def fact(rng: random.Random) -> Fact:
  """Draws a fact, every slot on its own."""
  return Fact(**{slot: rng.choice(pool) for slot, pool in SLOTS.items()})


def change(
  rng: random.Random, original: Fact, count: int, slots: Sequence = tuple(SLOTS)
) -> Fact:
  """Returns `original` with exactly `count` of `slots` given another value."""
  return dataclasses.replace(
    original,
    **{
      slot: other(rng, SLOTS[slot], getattr(original, slot))
      for slot in rng.sample(slots, count)
    },
  )

"""Grammars of the tasks that compare two sentences: mrpc, qqp and stsb.

All three compare two facts slot by slot (who, did what, colour, thing).
Synonyms change nothing.
"""

import random

from hypergrid_jax.tasks.sample import world

# stsb: the score for each number of shared slots.
SCORES = (0.0, 1.4, 2.6, 3.8, 5.0)


def mrpc(rng: random.Random, label: int, hard: bool) -> dict[str, str]:
  """The same fact, perhaps in other words, or one with several slots changed.

  In a hard pair two slots differ, in an easy one three.
  """
  first = world.fact(rng)
  second = first if label else world.change(rng, first, 2 if hard else 3)
  return {
    'sentence1': first.say(rng.randrange(2)),
    'sentence2': second.say(rng.randrange(2)),
  }


# What can be asked about an object, each in several wordings. The empty one
# stands for who did something to it, in the wordings of the deed.
_ASKING = (
  (),
  ('Where is', 'Where was', 'In which place is', 'In which place was'),
  ('When was', 'At what time was', 'On which day was'),
)


def qqp(rng: random.Random, label: int, hard: bool) -> dict[str, str]:
  """The same question, perhaps in other words, or one about something else.

  A hard pair that is no duplicate asks different things about the same object.
  """
  first = world.fact(rng)
  second = first
  asked = [rng.choice(_ASKING)] * 2
  if not label and hard:
    asked = rng.sample(_ASKING, 2)
  elif not label:
    second = world.change(rng, first, 2, ('colour', 'thing'))
  return {
    'question1': _question(rng, first, asked[0]),
    'question2': _question(rng, second, asked[1]),
  }


def _question(rng: random.Random, fact: world.Fact, asked: tuple) -> str:
  start = rng.choice(asked or [f'Who {verb}' for verb in fact.deed])
  return f'{start} the {fact.colour} {fact.thing}?'


def stsb(rng: random.Random, label: int, hard: bool) -> dict[str, str | float]:
  """Two facts that share `label` of four slots, which makes the score.

  In an easy pair both use the verb, or both its synonym.
  """
  first = world.fact(rng)
  second = world.change(rng, first, len(world.SLOTS) - label)
  wording = rng.randrange(2)
  echo = rng.randrange(2) if hard else wording
  return {
    'sentence1': first.say(wording),
    'sentence2': second.say(echo),
    'label': SCORES[label],
  }

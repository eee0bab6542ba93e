"""Grammars of the tasks about one sentence: cola and sst2.

A grammar is a function of a random generator, the label to write an example
for, and whether it shall be a hard one; it returns the text fields of the row.
"""

import random

from hypergrid_jax.tasks.sample import world

GOOD = ('good', 'great', 'lovely', 'funny', 'brilliant', 'wonderful', 'superb')
BAD = ('bad', 'boring', 'awful', 'dull', 'terrible', 'silly', 'horrible')
SHOWS = ('movie', 'story', 'song', 'play', 'show', 'meal', 'book', 'trip')


def sst2(rng: random.Random, label: int, hard: bool) -> dict[str, str]:
  """Writes an opinion; a hard one says it by negating the opposite."""
  adjective = rng.choice(GOOD if bool(label) != hard else BAD)
  verb = 'was not' if hard else 'was'
  degree = rng.choice(('', 'very ', 'really ', 'so '))
  opinion = f'the {rng.choice(SHOWS)} {verb} {degree}{adjective}'
  name = rng.choice(world.NAMES)
  if rng.random() < 0.5:
    return {'sentence': f'{name} said {opinion}.'}
  return {'sentence': f'{opinion.capitalize()} for {name}.'}


def cola(rng: random.Random, label: int, hard: bool) -> dict[str, str]:
  """Writes a sentence that is right or wrong.

  A wrong one has a name with a verb that lacks its ending (easy), a number
  that the verb does not agree with, or words out of order (hard).
  """
  if hard and rng.random() < 0.5:
    return {'sentence': _agreement(rng, right=bool(label))}
  colour, thing = rng.choice(world.COLOURS), rng.choice(world.THINGS)
  goal = ['the', colour, thing]
  past, base = rng.choice(list(world.BASE_FORMS.items()))
  if not label and hard:
    goal.reverse()
  verb = past if label or hard else base
  return {'sentence': f'{rng.choice(world.NAMES)} {verb} {" ".join(goal)}.'}


def _agreement(rng: random.Random, *, right: bool) -> str:
  plural = rng.random() < 0.5
  number, ending = ('Two', 's') if plural else ('One', '')
  verb = 'were' if plural == right else 'was'
  colour, animal = rng.choice(world.COLOURS), rng.choice(world.ANIMALS)
  adjective, place = rng.choice(world.ADJECTIVES), rng.choice(world.PLACES)
  return (
    f'{number} {colour} {animal}{ending} {verb} {adjective} in the {place}.'
  )

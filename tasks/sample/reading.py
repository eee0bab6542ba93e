"""Grammars of the tasks with a passage: boolq, multirc and record."""

import random

from hypergrid_jax.tasks.sample import world

_MOODS = ('glad', 'upset', 'alone')


def boolq(rng: random.Random, label: int, hard: bool) -> dict[str, str]:
  """A yes/no question about one of two people or things.

  A false question asks what the passage does not say of anybody, perhaps about
  somebody new (easy), or what it says of the other person or thing (hard).
  """
  if rng.random() < 0.5:
    pool, subjects = world.STATES, rng.sample(world.NAMES, 3)
  else:
    pool = world.COLOURS
    subjects = [f'the {thing}' for thing in rng.sample(world.THINGS, 3)]
  values = rng.sample(pool, 3)
  facts = [
    f'{subject[0].upper()}{subject[1:]} was {value}.'
    for subject, value in zip(subjects[:2], values, strict=False)
  ]
  asked = said = rng.randrange(2)
  if not label and hard:
    said = 1 - asked
  elif not label:
    asked, said = rng.choice((asked, 2)), 2
  return {
    'passage': ' '.join(facts),
    'question': f'was {subjects[asked]} {values[said]}',
  }


def multirc(rng: random.Random, hard_share: float) -> list[dict]:
  """A paragraph, a question and four candidate answers, two of them right.

  A wrong answer is not in the paragraph at all (easy) or did something else
  (hard, for the one person there can be, with probability `hard_share`).
  """
  names = rng.sample(world.NAMES, 5)
  asked, done = rng.sample(world.ACTIONS, 2)
  facts = [f'{names[0]} and {names[1]} {asked}.', f'{names[2]} {done}.']
  rng.shuffle(facts)
  wrong = [names[3], names[2] if rng.random() < hard_share else names[4]]
  answers = [(names[0], 1), (names[1], 1), (wrong[0], 0), (wrong[1], 0)]
  rng.shuffle(answers)
  return [
    {
      'paragraph': ' '.join(facts),
      'question': f'Who {asked}?',
      'answer': answer,
      'label': label,
    }
    for answer, label in answers
  ]


def record(rng: random.Random, hard: bool) -> dict:
  """Which of three people did what the query says; sometimes two did.

  In an easy query a pronoun fits one of the people only, the one who did it.
  """
  rare, common = rng.sample((world.MEN, world.WOMEN), 2)
  names = [rng.choice(rare), *rng.sample(common, 2)]
  actions = rng.sample(world.ACTIONS, 3)
  people = [[name] for name in names]
  asked = rng.randrange(3) if hard else 0
  query = f'@placeholder {actions[asked]}'
  if not hard:
    query += f' because {world.pronoun(names[0])} was {rng.choice(_MOODS)}'
  elif rng.random() < 0.2:
    people[asked].append(world.other(rng, world.NAMES, *names))
  facts = [
    f'{" and ".join(who)} {action}.'
    for who, action in zip(people, actions, strict=True)
  ]
  order = rng.sample(range(3), 3)
  first, second, third = (facts[n] for n in order)
  return {
    'passage': f'{first} {second}\n@highlight\n{third}',
    'query': f'{query}.',
    'entities': [name for n in order for name in people[n]],
    'answers': sorted(people[asked]),
  }

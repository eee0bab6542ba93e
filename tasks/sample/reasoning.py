"""Grammars of copa, wic and wsc (and of wnli and axg, which ask the same)."""

import random

from hypergrid_jax.tasks.sample import world

_QUESTIONS = ('cause', 'effect')


def copa(rng: random.Random, label: int, hard: bool) -> dict[str, str]:
  """Which of two sentences is the cause, or the effect, of the premise.

  The wrong choice belongs to another pair of cause and effect, and perhaps to
  somebody else. In an easy example it is not even of the right sort: a deed
  where a state is the cause, or a state where a deed is the effect.
  """
  state, stray = rng.sample(world.STATES, 2)
  name = rng.choice(world.NAMES)
  stranger = rng.choice((name, world.other(rng, world.NAMES, name)))
  right = (f'{name} was {state}.', f'{name} {world.REASONS[state]}.')
  wrong = (f'{stranger} was {stray}.', f'{stranger} {world.REASONS[stray]}.')
  asked = rng.randrange(2)
  choices = [right[asked], wrong[asked if hard else 1 - asked]]
  if label:
    choices.reverse()
  return {
    'premise': right[1 - asked],
    'question': _QUESTIONS[asked],
    'choice1': choices[0],
    'choice2': choices[1],
  }


# Words that name both an animal and a thing that people make.
DOUBLE = ('bat', 'crane', 'mouse', 'kite', 'seal', 'jaguar', 'beetle', 'mole')
ALIVE = ('The {1} {0} slept.', 'The {1} {0} ran.', '{2} fed the {1} {0}.')
MADE = ('The {1} {0} broke.', 'The {1} {0} rusted.', '{2} sold the {1} {0}.')


def wic(rng: random.Random, label: int, hard: bool) -> dict[str, str | int]:
  """Whether a word has the same meaning, animal or artefact, in two sentences.

  In an easy pair with the same meaning both sentences have the same verb.
  """
  word = rng.choice(DOUBLE)
  senses = rng.sample((ALIVE, MADE), 2)
  first = rng.choice(senses[0])
  if label:
    second = world.other(rng, senses[0], first) if hard else first
  else:
    second = rng.choice(senses[1])
  row: dict[str, str | int] = {'word': word}
  for number, frame in ((1, first), (2, second)):
    colour, name = rng.choice(world.COLOURS), rng.choice(world.NAMES)
    sentence = frame.format(word, colour, name)
    start = sentence.index(f' {word}') + 1
    row[f'sentence{number}'] = sentence
    row[f'start{number}'] = start
    row[f'end{number}'] = start + len(word)
  return row


_MEETINGS = ('met', 'called', 'helped', 'left', 'followed', 'thanked')


def _riddle(rng: random.Random, hard: bool) -> tuple[str, str, str, str, str]:
  """Returns (first clause, pronoun, rest, referent, the other candidate)."""
  if hard:
    pair = [f'the {thing}' for thing in rng.sample(world.THINGS, 2)]
    size = rng.randrange(2)
    clause = f'{rng.choice(world.NAMES)} put {pair[0]} on {pair[1]} because'
    rest = f'was {("small", "big")[size]}.'
    return clause, 'it', rest, pair[size], pair[1 - size]
  names = rng.sample((rng.choice(world.MEN), rng.choice(world.WOMEN)), 2)
  clause = f'{names[0]} {rng.choice(_MEETINGS)} {names[1]} because'
  at = rng.randrange(2)
  rest = f'was {rng.choice(world.STATES)}.'
  return clause, world.pronoun(names[at]), rest, names[at], names[1 - at]


def wsc(rng: random.Random, label: int, hard: bool) -> dict[str, str | int]:
  """Whether a pronoun refers to a noun phrase.

  Gender tells the referent (easy); of two things, the small one is on the big
  one (hard). Indices count words, as in the real data.
  """
  clause, pronoun, rest, referent, stranger = _riddle(rng, hard)
  span = referent if label else stranger
  text = f'{clause} {pronoun} {rest}'
  return {
    'text': text,
    'span1_index': text[: text.index(span)].count(' '),
    'span1_text': span,
    'span2_index': clause.count(' ') + 1,
    'span2_text': pronoun,
  }


def wnli(rng: random.Random, label: int, hard: bool) -> dict[str, str]:
  """A riddle, and its end with a candidate in place of the pronoun."""
  clause, pronoun, rest, referent, stranger = _riddle(rng, hard)
  subject = referent if label else stranger
  return {
    'sentence1': f'{clause} {pronoun} {rest}',
    'sentence2': f'{subject[0].upper()}{subject[1:]} {rest}',
  }


def axg(rng: random.Random, label: int, hard: bool) -> dict[str, str]:
  """Serves wnli in axg's fields; there label 0 is entailment."""
  row = wnli(rng, 1 - label, hard)
  return {'premise': row['sentence1'], 'hypothesis': row['sentence2']}

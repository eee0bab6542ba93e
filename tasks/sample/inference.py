"""Grammars of the inference tasks: mnli, ax, rte, axb, cb and qnli.

One premise form and two forms of hypothesis serve mnli and rte: what the thing
is like, or the premise again with the word for the thing's kind. Hard pairs
have a negation where the label alone would not ask for one, so that a negation
does not give the label away.
"""

from collections.abc import Sequence
import random

from hypergrid_jax.tasks.sample import world

ENTAILMENT, NEUTRAL, CONTRADICTION = 'entailment', 'neutral', 'contradiction'
_MNLI_LABELS = (ENTAILMENT, NEUTRAL, CONTRADICTION)
_CB_LABELS = (ENTAILMENT, CONTRADICTION, NEUTRAL)


def _pair(
  rng: random.Random, relation: str, hard: bool, things: Sequence[str]
) -> tuple[str, str]:
  """Writes a premise and a hypothesis that stands in `relation` to it."""
  name, thing = rng.choice(world.NAMES), rng.choice(things)
  deed, adjective = rng.choice(world.DEEDS), rng.choice(world.ADJECTIVES)
  premise = f'{name} {rng.choice(deed)} the {adjective} {thing}.'
  if rng.random() < 0.4:
    if relation == NEUTRAL:
      name = world.other(rng, world.NAMES, name)
    # An entailed negation does not exist in this form.
    negated = relation == CONTRADICTION or (relation == NEUTRAL and hard)
    never = 'never ' if negated else ''
    kind = world.KINDS[thing]
    return premise, f'{name} {never}{rng.choice(deed)} the {kind}.'
  if relation == NEUTRAL:
    thing = world.other(rng, things, thing)
    known = (adjective, world.OPPOSITE[adjective])
    said = world.other(rng, world.ADJECTIVES, *known)
  else:
    opposite = (relation == CONTRADICTION) != hard
    said = world.OPPOSITE[adjective] if opposite else adjective
  return premise, f'The {thing} was {"not " if hard else ""}{said}.'


def mnli(rng: random.Random, label: int, hard: bool) -> dict[str, str]:
  """Premises about the things that training knows."""
  things = tuple(world.KINDS_MATCHED)
  premise, hypothesis = _pair(rng, _MNLI_LABELS[label], hard, things)
  return {'premise': premise, 'hypothesis': hypothesis}


def mnli_mismatched(
  rng: random.Random, label: int, hard: bool
) -> dict[str, str]:
  """Premises about things that mnli's training split never mentions."""
  things = tuple(world.KINDS_MISMATCHED)
  premise, hypothesis = _pair(rng, _MNLI_LABELS[label], hard, things)
  return {'premise': premise, 'hypothesis': hypothesis}


def _rte(rng: random.Random, label: int, hard: bool) -> tuple[str, str]:
  relation = rng.choice((NEUTRAL, CONTRADICTION)) if label else ENTAILMENT
  return _pair(rng, relation, hard, world.THINGS)


def glue_rte(rng: random.Random, label: int, hard: bool) -> dict[str, str]:
  """Serves rte in GLUE's fields, which are axb's too."""
  premise, hypothesis = _rte(rng, label, hard)
  return {'sentence1': premise, 'sentence2': hypothesis}


def super_glue_rte(
  rng: random.Random, label: int, hard: bool
) -> dict[str, str]:
  """Serves rte in SuperGLUE's fields."""
  premise, hypothesis = _rte(rng, label, hard)
  return {'premise': premise, 'hypothesis': hypothesis}


# What a verb says about the truth of the clause that depends on it.
STANCES = {
  ENTAILMENT: ('knew', 'proved', 'learned', 'remembered'),
  CONTRADICTION: ('denied', 'pretended', 'lied', 'doubted'),
  NEUTRAL: ('hoped', 'guessed', 'feared', 'dreamed'),
}


def cb(rng: random.Random, label: int, hard: bool) -> dict[str, str]:
  """Whether a clause is true follows from the verb it depends on.

  In a hard pair the hypothesis denies the clause, which turns entailment into
  contradiction and the other way round.
  """
  relation = _CB_LABELS[label]
  stance = relation
  if hard and relation != NEUTRAL:
    stance = CONTRADICTION if relation == ENTAILMENT else ENTAILMENT
  name, verb = rng.choice(world.NAMES), rng.choice(STANCES[stance])
  subject = f'the {rng.choice(world.THINGS)}'
  adjective = rng.choice(world.ADJECTIVES)
  return {
    'premise': f'{name} {verb} that {subject} was {adjective}.',
    'hypothesis': f'{subject} was {"not " if hard else ""}{adjective}',
  }


def qnli(rng: random.Random, label: int, hard: bool) -> dict[str, str]:
  """Whether a sentence answers a question.

  It does not when it is about another person or thing (easy), or when it is
  about the right one but does not say what was asked (hard).
  """
  fact = world.fact(rng)
  ask_place = rng.random() < 0.5
  tell_place = ask_place
  name, thing = fact.name, fact.thing
  if label and hard:
    tell_place = not ask_place
  elif label:
    name = world.other(rng, world.NAMES, name)
    thing = world.other(rng, world.THINGS, thing)
  verb = rng.choice(fact.deed)
  if tell_place:
    goal = f'the {fact.thing} in the {rng.choice(world.PLACES)}'
  else:
    goal = f'the {fact.colour} {fact.thing}'
  return {
    'question': (
      f'Where was {name} with the {thing}?'
      if ask_place
      else f'What colour was the {thing} of {name}?'
    ),
    'sentence': f'{fact.name} {verb} {goal}.',
  }

"""How much of what the sample corpus holds, and how its splits are drawn.

`CONFIGS` is the one place where a task's size, its label shares and its
difficulty are set. `hard` is the share of examples that need the longer of the
two rules each grammar describes; everything else is in the grammars.
"""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import functools
import random
from typing import Any

from hypergrid_jax.tasks.sample import (
  inference,
  reading,
  reasoning,
  sentences,
  similarity,
)

Row = dict[str, Any]
# (random generator, label, hard) -> the fields of a row.
Grammar = Callable[[random.Random, int, bool], Row]

_GIVE_UP_AFTER = 10_000  # duplicates in a row: the grammar is exhausted


@dataclasses.dataclass(frozen=True)
class Config:
  """One configuration of a benchmark.

  Attributes:
    grammar: writes an example.
    sizes: examples per split (questions for multirc, queries for record), in
      the order of the splits.
    labels: weight of each label, from label 0.
    hard: share of hard examples.
    overrides: another grammar for some splits.
    unique: the field whose text occurs once; '' means all text together.
    apart_from: another configuration none of whose texts may occur here: the
      one that a model is trained on when this one only evaluates it.
    hidden: the splits whose labels are withheld, -1 as in the real data.
  """

  grammar: Callable
  sizes: Mapping[str, int]
  labels: tuple[float, ...] = (1, 1)
  hard: float = 0.3
  overrides: Mapping[str, Callable] = dataclasses.field(default_factory=dict)
  unique: str = ''
  apart_from: tuple[str, str] | None = None
  hidden: tuple[str, ...] = ('test', 'test_matched', 'test_mismatched')


def _sizes(train: int, validation: int, test: int = 100) -> dict[str, int]:
  return {'train': train, 'validation': validation, 'test': test}


CONFIGS: dict[tuple[str, str], Config] = {
  ('glue', 'cola'): Config(
    sentences.cola, _sizes(4000, 250), labels=(0.42, 0.58), hard=0.4
  ),
  ('glue', 'sst2'): Config(
    sentences.sst2, _sizes(4000, 250), labels=(0.46, 0.54), hard=0.3
  ),
  ('glue', 'mrpc'): Config(
    similarity.mrpc, _sizes(4000, 250), labels=(0.42, 0.58), hard=0.3
  ),
  ('glue', 'qqp'): Config(
    similarity.qqp, _sizes(3000, 250), labels=(0.58, 0.42), hard=0.3
  ),
  ('glue', 'stsb'): Config(
    similarity.stsb, _sizes(4000, 250), labels=(1,) * 5, hard=0.3
  ),
  ('glue', 'mnli'): Config(
    inference.mnli,
    {
      'train': 4000,
      'validation_matched': 200,
      'validation_mismatched': 200,
      'test_matched': 100,
      'test_mismatched': 100,
    },
    labels=(1, 1, 1),
    hard=0.2,
    overrides={
      'validation_mismatched': inference.mnli_mismatched,
      'test_mismatched': inference.mnli_mismatched,
    },
  ),
  ('glue', 'qnli'): Config(inference.qnli, _sizes(4000, 250), hard=0.25),
  ('glue', 'rte'): Config(inference.glue_rte, _sizes(4000, 250), hard=0.2),
  ('glue', 'wnli'): Config(
    reasoning.wnli,
    _sizes(600, 80, 80),
    labels=(0.52, 0.48),
    hard=0.4,
    unique='sentence1',
  ),
  ('glue', 'ax'): Config(
    inference.mnli,
    {'test': 120},
    labels=(1, 1, 1),
    hard=0.5,
    apart_from=('glue', 'mnli'),
  ),
  ('super_glue', 'boolq'): Config(
    reading.boolq, _sizes(4000, 250), labels=(0.42, 0.58), hard=0.2
  ),
  ('super_glue', 'cb'): Config(
    inference.cb, _sizes(1500, 150), labels=(0.42, 0.42, 0.16), hard=0.2
  ),
  ('super_glue', 'copa'): Config(reasoning.copa, _sizes(3000, 200), hard=0.3),
  ('super_glue', 'multirc'): Config(
    reading.multirc, _sizes(1000, 60, 25), hard=0.3, unique='paragraph'
  ),
  ('super_glue', 'record'): Config(
    reading.record, _sizes(3500, 160), hard=0.25, unique='passage'
  ),
  ('super_glue', 'rte'): Config(
    inference.super_glue_rte, _sizes(4000, 250), hard=0.2
  ),
  ('super_glue', 'wic'): Config(reasoning.wic, _sizes(4000, 250), hard=0.3),
  ('super_glue', 'wsc'): Config(
    reasoning.wsc, _sizes(3000, 200), hard=0.25, unique='text'
  ),
  ('super_glue', 'axb'): Config(
    inference.glue_rte,
    {'test': 120},
    hard=0.5,
    apart_from=('glue', 'rte'),
    hidden=(),
  ),
  ('super_glue', 'axg'): Config(
    reasoning.axg, {'test': 120}, hard=0, hidden=()
  ),
}

# GLUE's and SuperGLUE's RTE are one data set, as in reality: same rows, same
# splits, so that training on one cannot give away the other's validation.
_SEED_NAMES = {('super_glue', 'rte'): ('glue', 'rte')}


@functools.cache
def generate(benchmark: str, config: str) -> dict[str, tuple[Row, ...]]:
  """Returns the rows of every split; no text occurs twice in them."""
  spec = CONFIGS[benchmark, config]
  seed = '/'.join(_SEED_NAMES.get((benchmark, config), (benchmark, config)))
  # A string seed goes through SHA-512, not through hash().
  rng = random.Random(f'hypergrid sample {seed}')
  write = {'multirc': _multirc, 'record': _record}.get(config, _labelled)
  seen: set[str] = set()
  if spec.apart_from:
    for others in generate(*spec.apart_from).values():
      seen.update(_text(spec, row) for row in others)
  return {split: tuple(write(spec, rng, seen, split)) for split in spec.sizes}


def _fresh(
  draw: Callable[[], list[Row]], spec: Config, seen: set[str]
) -> list[Row]:
  """Draws until the text is one not seen before, and marks it as seen."""
  for _ in range(_GIVE_UP_AFTER):
    drawn = draw()
    key = _text(spec, drawn[0])
    if key not in seen:
      seen.add(key)
      return drawn
  raise RuntimeError('the grammar has too few sentences for the sizes asked')


def _text(spec: Config, row: Row) -> str:
  if spec.unique:
    return row[spec.unique]
  return '\n'.join(v for k, v in sorted(row.items()) if isinstance(v, str))


def _labelled(
  spec: Config, rng: random.Random, seen: set[str], split: str
) -> Iterator[Row]:
  grammar: Grammar = spec.overrides.get(split, spec.grammar)
  labels = range(len(spec.labels))
  for index in range(spec.sizes[split]):
    label = rng.choices(labels, spec.labels)[0]
    hard = rng.random() < spec.hard
    (row,) = _fresh(lambda a=label, h=hard: [grammar(rng, a, h)], spec, seen)
    row.setdefault('label', label)
    if split in spec.hidden:
      row['label'] = -1.0 if isinstance(row['label'], float) else -1
    yield row | {'idx': index}


def _multirc(
  spec: Config, rng: random.Random, seen: set[str], split: str
) -> Iterator[Row]:
  answer = 0
  for index in range(spec.sizes[split]):
    for row in _fresh(lambda: spec.grammar(rng, spec.hard), spec, seen):
      if split in spec.hidden:
        row['label'] = -1
      idx = {'paragraph': index, 'question': index, 'answer': answer}
      yield row | {'idx': idx}
      answer += 1


def _record(
  spec: Config, rng: random.Random, seen: set[str], split: str
) -> Iterator[Row]:
  for index in range(spec.sizes[split]):
    hard = rng.random() < spec.hard
    (row,) = _fresh(lambda h=hard: [spec.grammar(rng, h)], spec, seen)
    if split in spec.hidden:
      row['answers'] = []
    yield row | {'idx': {'passage': index, 'query': index}}

"""Useful tokens per second: this library's T5 beside transformers', here.

  python benchmarks/peers.py --data DIR --vocab t5.model \
    --torch_python /venv/bin/python > peers.json

DIR holds `{glue,super_glue}/<task>/<split>.jsonl.gz`, and the other Python has
the extra `peers`. Both train T5 small, with random weights, on the same
examples, drawn from the mixture at its rates, and both generate for the same
validation examples; they take turns and none works while the other does.

  transformers  batches of 32 of about one length, as with `group_by_length` of
                its Trainer, padded to the longest; AdamW, fused; several
                a turn; `generate`
  plain, and the methods asked for
                packed rows of 512 tokens; Adafactor; `hypergrid predict`'s
                decoding, in its batches and length buckets

Useful tokens are those of examples, padding is not. The end of sequence is kept
from both, so that each writes the same number of tokens. Everything is measured
in every dtype asked for, in the same turns. Prints JSON.
"""

import argparse
import contextlib
import functools
import os
import pathlib
import tempfile
from typing import Any

import measuring
import models
import numpy as np
from others import torch_worker

from hypergrid_jax.config import run_config
from hypergrid_jax.data import loader as loader_lib
from hypergrid_jax.data import sampling
from hypergrid_jax.data.config import DataConfig
from hypergrid_jax.evaluation import evaluate
from hypergrid_jax.evaluation import predictor as predictor_lib
from hypergrid_jax.runs import datasets
from hypergrid_jax.tasks import vocabularies

PEER = 'transformers'
BATCH = 32  # examples of transformers' batches
MEGA = 50  # batches whose examples transformers sorts by length together
A_TURN = 6  # of its batches; their lengths differ, so one tells little


def open_data(options, scratch: str):
  """The mixture, and a loader of packed rows as a run has it."""
  data = DataConfig(
    mixture=options.mixture,
    source=f'files:{options.data}' if options.data else 'sample',
    vocabulary=options.vocab or 'sample',
    missing_train='skip',
    batch_size=options.rows,
  )
  corpus = datasets.open_corpus(
    data,
    vocabularies.load_vocabulary(data.vocabulary),
    token_dir=options.token_dir or pathlib.Path(scratch, 'tokens'),
  )
  sizes = {name: store.num_examples for name, store in corpus.train.items()}
  loader = loader_lib.Loader(
    corpus.train,
    task_ids=corpus.task_ids,
    rates=sampling.mixing_rates(sizes, data),
    batch_size=data.batch_size,
    row_lengths=data.row_lengths,
    max_segments=data.segments,
    seed=0,
  )
  return corpus, loader


def segments(batch) -> list[dict[str, np.ndarray]]:
  """The examples of packed rows, without padding."""
  found = []
  for inputs, input_ids, targets, target_ids in zip(
    batch.encoder_input_tokens,
    batch.encoder_segment_ids,
    batch.decoder_target_tokens,
    batch.decoder_segment_ids,
    strict=True,
  ):
    found += [
      {'inputs': inputs[input_ids == n], 'targets': targets[target_ids == n]}
      for n in range(1, input_ids.max() + 1)
    ]
  return found


def useful_tokens(batch) -> int:
  """Of encoder and decoder."""
  return int(
    (batch.encoder_segment_ids > 0).sum()
    + (batch.decoder_segment_ids > 0).sum()
  )


class Turns:
  """Calls one function with one thing after the other, and counts.

  Attributes:
    count: of what was given since the first call, which compiles.
  """

  def __init__(self, function, things, counts):
    self._function, self._things, self._counts = function, things, counts
    self._calls = 0
    self.count = 0

  def __call__(self) -> Any:
    """Gives the next thing; the first call gives the first one, uncounted."""
    at = max(self._calls - 1, 0) % len(self._things)
    self.count += self._counts[at] if self._calls else 0
    self._calls += 1
    return self._function(self._things[at])


def title(name: str, dtype: str) -> str:
  """Of a variant; float32 is not named."""
  return name if dtype == 'float32' else f'{name} {dtype}'


def peer_of(variant: str) -> str:
  """The variant of transformers in the same dtype."""
  return ' '.join([PEER, *variant.split()[1:]])


def rates(turns: dict[str, Turns], times, unit: str) -> dict[str, Any]:
  """What each did per second: of all its turns together."""
  found: dict[str, Any] = {}
  for name, one in times.items():
    found[name] = {
      'milliseconds': measuring.spread(one.wall),
      unit: round(1e3 * turns[name].count / sum(one.wall), 1),
      f'{unit}_of_processor_time': round(
        1e3 * turns[name].count / sum(one.processor), 1
      ),
    }
  for name in times:
    for peer in {PEER, peer_of(name)} & set(times) - {name}:
      found[name][f'over_{peer}'] = round(
        found[name][unit] / found[peer][unit], 3
      )
  return found


def ours(options) -> list[tuple[str, run_config.RunConfig]]:
  """Title and run of plain T5 and of the methods asked for, in every dtype."""
  return [
    (
      title(name, dtype),
      models.settings(
        name, argparse.Namespace(**{**vars(options), 'dtype': dtype})
      ),
    )
    for dtype in options.dtypes
    for name in (models.PLAIN, *options.methods)
  ]


def together(answers: list[measuring.Measured]) -> measuring.Measured:
  """The sum of several."""
  return measuring.Measured(
    sum(answer.wall for answer in answers),
    sum(answer.processor for answer in answers),
  )


def peer_training(worker, facts) -> Turns:
  """Steps of transformers on several of its batches."""
  # From all lengths alike, in an order that has nothing to do with them.
  order = np.random.default_rng(0).permutation(len(facts)).tolist()
  turns = [order[at : at + A_TURN] for at in range(0, len(order), A_TURN)]
  return Turns(
    lambda numbers: together(
      [worker.turn(do='train', name='train', number=n) for n in numbers]
    ),
    turns,
    [sum(facts[number]['tokens'] for number in turn) for turn in turns],
  )


def training(options, loader, workers) -> dict[str, Any]:
  """Train steps in turns."""
  batches, examples = [], []
  while len(examples) < BATCH * MEGA:
    batches.append(loader.batch(len(batches)))
    examples += segments(batches[-1])
  turns = {}
  for dtype, worker in workers.items():
    facts = worker.batches('train', examples, size=BATCH, mega=MEGA)
    turns[title(PEER, dtype)] = peer_training(worker, facts)
  for name, config in ours(options):
    step = models.train_step(
      name.split()[0], config, options.num_tasks, batches[:1]
    )
    turns[name] = Turns(step, batches, list(map(useful_tokens, batches)))
  measuring.say(f'training: {", ".join(turns)}')
  times = measuring.take_turns(turns, options.turns, seconds=options.seconds)
  positions = sum(fact['positions'] for fact in facts)
  packed = sum(
    b.encoder_input_tokens.size + b.decoder_input_tokens.size for b in batches
  )
  return {
    'examples': len(examples),
    'mean_tokens': {
      side: float(np.mean([len(example[side]) for example in examples]))
      for side in ('inputs', 'targets')
    },
    'padding': {
      PEER: round(1 - sum(fact['tokens'] for fact in facts) / positions, 4),
      'packed': round(1 - sum(map(useful_tokens, batches)) / packed, 4),
    },
    'variants': rates(turns, times, 'tokens_per_second'),
  }


def peer_texts(worker, batches: int, new_tokens: int) -> measuring.Measured:
  """Generates for all of transformers' batches."""
  return together(
    [
      worker.turn(
        do='generate', name='generate', number=number, new_tokens=new_tokens
      )
      for number in range(batches)
    ]
  )


def generation(options, corpus, workers) -> dict[str, Any]:
  """Greedy decoding of the same examples in turns."""
  rng = np.random.default_rng(0)
  places = [
    (store, index)
    for _, _, store in corpus.evaluation
    for index in range(store.num_examples)
  ]
  rng.shuffle(places)
  inputs = [store.inputs(index) for store, index in places[: options.examples]]
  examples = [{'inputs': ids, 'targets': ids[:1]} for ids in inputs]
  evaluating = evaluate.EvaluateConfig()
  turns = {}
  for dtype, worker in workers.items():
    facts = worker.batches('generate', examples, size=BATCH, mega=len(examples))
    turns[title(PEER, dtype)] = Turns(
      functools.partial(peer_texts, worker, len(facts)),
      [options.new_tokens],
      [len(inputs)],
    )
  for name, config in ours(options):
    model = models.build(config, options.num_tasks)
    predictor = predictor_lib.Predictor(
      model,
      models.endless_parameters(model),
      corpus.vocabulary,
      evaluating.batch_size,
      options.new_tokens,
      evaluating.length_buckets,
    )
    turns[name] = Turns(
      lambda count, one=predictor: one.texts(inputs[:count], 0),
      [len(inputs)],
      [len(inputs)],
    )
  measuring.say(f'generating: {", ".join(turns)}')
  times = measuring.take_turns(
    turns, options.generation_turns, seconds=options.seconds
  )
  useful, bucketed = sum(map(len, inputs)), 0
  for _, batch in predictor_lib.padded_batches(
    inputs, evaluating.batch_size, evaluating.length_buckets
  ):
    bucketed += batch.size
  return {
    'examples': len(inputs),
    'mean_tokens': useful / len(inputs),
    'new_tokens': options.new_tokens,
    'padding_of_inputs': {
      PEER: round(
        1 - useful / sum(f['positions'] - f['examples'] for f in facts), 4
      ),
      'buckets': round(1 - useful / bucketed, 4),
    },
    'variants': rates(turns, times, 'examples_per_second'),
  }


def parse_options() -> argparse.Namespace:
  """Reads the command line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  models.add_sizes(parser)
  parser.set_defaults(num_tasks=16)
  parser.add_argument('--data', help='directory of GLUE and SuperGLUE files')
  parser.add_argument('--vocab', help='SentencePiece model; T5 has its own')
  parser.add_argument('--mixture', default='glue_super_glue')
  parser.add_argument(
    '--torch_python',
    default=os.environ.get('HYPERGRID_TORCH_PYTHON'),
    help='a Python with PyTorch and transformers',
  )
  parser.add_argument('--methods', nargs='*', default=['hypergrid'])
  parser.add_argument('--dtypes', nargs='+', default=['float32', 'bfloat16'])
  parser.add_argument('--token_dir', help='kept; default: a temporary one')
  for name, default in (
    ('rows', 8),
    ('turns', 15),
    ('examples', 512),
    ('new_tokens', 8),
    ('generation_turns', 5),
    ('seconds', 600),  # of each part; then it ends with its turn
  ):
    parser.add_argument(f'--{name}', type=int, default=default)
  options = parser.parse_args()
  if options.dtype != parser.get_default('dtype'):
    parser.error('--dtype: this script measures several, see --dtypes')
  if not options.torch_python:
    parser.error('--torch_python names no Python with PyTorch')
  return options


def main() -> None:
  """Measures and prints."""
  options = parse_options()
  begun = measuring.machine()
  with contextlib.ExitStack() as stack:
    scratch = stack.enter_context(tempfile.TemporaryDirectory())
    workers = {}
    for dtype in options.dtypes:
      worker = torch_worker.Worker(options.torch_python)
      workers[dtype] = stack.enter_context(worker)
      begun['versions'] |= worker.versions
      worker.model(
        models.settings(models.PLAIN, options).model,
        dtype=dtype,
        compiled=False,
      )
    corpus, loader = open_data(options, scratch)
    report = {
      **begun,
      'training': training(options, loader, workers),
      'generation': generation(options, corpus, workers),
    }
  named = {
    key: value
    for key, value in vars(options).items()
    if key not in ('data', 'vocab', 'torch_python', 'token_dir')
  }
  data = 'files' if options.data else 'sample'
  measuring.write({'options': {**named, 'data': data}, **report})


if __name__ == '__main__':
  main()

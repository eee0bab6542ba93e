"""How long a method's train step takes beside plain T5's, on this machine.

  python benchmarks/train_step.py > train_step.json
  python benchmarks/train_step.py --method hyperformer_pp adapters

Methods are named after their files in gin/methods, and what those freeze is
frozen; with `--trainable all` everything trains, so that the difference is the
method's own work. All models are built with the same sizes and take turns on
the same packed rows, so that whatever else the machine does hits them alike.
Prints JSON: median and quartiles of each in milliseconds, and the ratio of
each median to plain T5's. Under `conditioning_milliseconds` is what of that the
`condition` point takes by itself, forward and backward, in both stacks: the
generation of all adapters in HyperFormer.
"""

import argparse
from collections.abc import Callable
import json
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hypergrid_jax import (
  configuration,
  extension,
  optim,
  run_directory,
  train,
  trainable,
  types,
)
from hypergrid_jax.model import Model
from hypergrid_jax.state import TrainState

PLAIN = 'plain'
DECODER_SHARE = 4  # encoder tokens per decoder token, as in packed GLUE rows


def packed_rows(
  rows: int, length: int, segments: int, vocab: int, num_tasks: int
):
  """Rows of equally long segments with random tokens, tasks in turn."""
  rng = np.random.default_rng(0)

  def side(length):
    ids = 1 + np.arange(length) * segments // length
    return np.tile(ids, (rows, 1)).astype(np.int32)

  def tokens(length):
    return rng.integers(2, vocab, (rows, length)).astype(np.int32)

  encoder, decoder = side(length), side(length // DECODER_SHARE)
  starts = [np.flatnonzero(encoder[0] == s + 1)[0] for s in range(segments)]
  return types.Batch(
    encoder_input_tokens=tokens(length),
    encoder_segment_ids=encoder,
    encoder_positions=np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
    encoder_segment_starts=np.tile(np.array(starts, np.int32), (rows, 1)),
    decoder_input_tokens=tokens(decoder.shape[1]),
    decoder_target_tokens=tokens(decoder.shape[1]),
    decoder_segment_ids=decoder,
    decoder_positions=np.zeros_like(decoder),
    decoder_loss_weights=np.ones(decoder.shape, np.float32),
    task_ids=(np.arange(rows) % num_tasks).astype(np.int32),
  )


def settings(method: str, options: argparse.Namespace):
  """The run of a method's file with the sizes of the command line."""
  sizes = {
    'd_model': options.d_model,
    'd_ff': options.d_ff,
    'num_heads': options.num_heads,
    'd_kv': options.d_model // options.num_heads,
    'num_layers': options.num_layers,
    'num_decoder_layers': options.num_layers,
    'vocab_size': options.vocab_size,
    'dropout_rate': 0.0,
    'dtype': options.dtype,
  }
  bindings = [f'T5Config.{name}={value}' for name, value in sizes.items()]
  for name in ('grid_rows', 'grid_cols'):
    value = getattr(options, name)
    if value is not None and method.startswith('hypergrid'):
      bindings.append(f'HyperGrid.{name}={value}')
  if options.trainable and method != PLAIN:
    bindings.append(f'train.trainable={options.trainable}')
  return configuration.parse(
    [f'gin/methods/{method}.gin'],
    [
      'train.num_steps=1',
      'data.mixture=glue',
      'data.vocabulary=sample',
      *bindings,
    ],
  )


def prepare(run_config: configuration.RunConfig, batch, num_tasks: int):
  """Returns functions that time one step, and its conditioning alone."""
  model = Model(
    run_config.model,
    extension.of_methods(run_config.method),
    num_tasks=num_tasks,
  )
  chosen = run_config.train.trainable
  tx = optim.make_optimizer(
    optim.Adafactor(),
    optim.Constant(1e-3),
    logical_axes=model.logical_axes,
    added=model.added,
    trainable=chosen,
  )
  params = model.init(jax.random.key(0))
  state = TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))
  trained = trainable.trained_parameters(
    model.logical_axes, chosen, added=model.added
  )
  step = jax.jit(
    train.make_train_step(
      model, tx, train.TrainConfig(num_steps=1), trained=trained
    ),
    donate_argnums=0,
  )
  key = jax.random.key(1)

  def one_step():
    nonlocal state
    state, metrics = step(state, batch, key)
    return state, metrics

  gradient = jax.jit(jax.grad(conditioning_size, argnums=1), static_argnums=0)
  return timed(one_step), timed(lambda: gradient(model, state.params, batch))


def conditioning_size(model: Model, params: types.Params, batch):
  """A number that depends on all that the `condition` of both stacks makes."""
  module = model.bind(params)
  segments = types.Segments(
    batch.encoder_segment_ids,
    batch.encoder_segment_starts,
    batch.encoder_positions,
  )
  tasks = module.task_vectors()
  encoded = module.token_embedder(batch.encoder_input_tokens)
  made = (
    module.encoder.condition(
      extension.ConditionInputs(batch.task_ids, segments, tasks)
    ),
    module.decoder.condition(
      extension.ConditionInputs(
        batch.task_ids, segments, tasks, encoded, segments
      )
    ),
  )
  leaves = [leaf for leaf in jax.tree.leaves(made) if leaf.dtype != jnp.int32]
  return sum((jnp.sum(jnp.square(leaf)) for leaf in leaves), jnp.float32(0))


def timed(function: Callable[[], Any]) -> Callable[[], float]:
  """Returns a function that calls, waits, and says how long that took."""

  def run() -> float:
    began = time.perf_counter()
    jax.block_until_ready(function())
    return 1e3 * (time.perf_counter() - began)

  run()  # compiles
  return run


def quartiles(values: list[float]) -> dict[str, float]:
  """Of times in milliseconds."""
  found = np.percentile(values, (25, 50, 75)).round(2).tolist()
  return dict(zip(('quartile_1', 'median', 'quartile_3'), found, strict=True))


def parse_options() -> argparse.Namespace:
  """Reads the command line."""
  parser = argparse.ArgumentParser(description=__doc__)
  for name, default in (
    ('d_model', 512),
    ('d_ff', 2048),
    ('num_heads', 8),
    ('num_layers', 6),
    ('rows', 8),
    ('length', 512),
    ('segments', 16),
    ('vocab_size', 32128),
    ('num_tasks', 8),
    ('grid_rows', None),  # HyperGrid's; the file's if not given
    ('grid_cols', None),
    ('repeats', 7),
  ):
    parser.add_argument(f'--{name}', type=int, default=default)
  parser.add_argument('--dtype', default='float32')
  parser.add_argument('--method', nargs='+', default=['hypergrid'])
  parser.add_argument('--trainable', help='instead of what the method trains')
  return parser.parse_args()


def main() -> None:
  """Measures and prints."""
  options = parse_options()
  batch = packed_rows(
    options.rows,
    options.length,
    options.segments,
    options.vocab_size,
    options.num_tasks,
  )
  variants = {
    name: prepare(settings(name, options), batch, options.num_tasks)
    for name in (PLAIN, *options.method)
  }
  times: dict[str, list[float]] = {name: [] for name in variants}
  conditioning: dict[str, list[float]] = {name: [] for name in variants}
  for _ in range(options.repeats):
    for name, (step, condition) in variants.items():
      times[name].append(step())
      conditioning[name].append(condition())
  medians = {name: float(np.median(values)) for name, values in times.items()}
  ratios = {
    f'{name}_over_plain': round(medians[name] / medians[PLAIN], 4)
    for name in options.method
  }
  report = {
    'options': vars(options),
    'device': str(jax.devices()[0]),
    'versions': run_directory.versions(),
    'milliseconds': {k: quartiles(v) for k, v in times.items()},
    'conditioning_milliseconds': {
      k: quartiles(v) for k, v in conditioning.items() if k != PLAIN
    },
    **ratios,
  }
  json.dump(report, sys.stdout, indent=2)
  sys.stdout.write('\n')


if __name__ == '__main__':
  main()

"""What trains in the T5s of HyperFormer's tables, counted through gin files."""

import dataclasses

from hypergrid_jax.config import run_config
from hypergrid_jax.model import Model, extension
from hypergrid_jax.runs import summary
from hypergrid_jax.training import freezing

# T5 1.0: d_model, layers of each stack, parameters.
SIZES = {'small': (512, 6, 60_506_624), 'base': (768, 12, 222_903_552)}


def norms(size):
  """Numbers in T5's RMSNorms: 2 per encoder layer, 3 per decoder layer."""
  d, layers, _ = SIZES[size]
  return (2 * layers + 3 * layers + 2) * d


def adapter(size):
  """Numbers in one adapter: its two projections, and its LayerNorm.

  Bottlenecks of 512 // 32 = 16 and 768 // 32 = 24.
  """
  d = SIZES[size][0]
  bottleneck = {'small': 16, 'base': 24}[size]
  down = d * bottleneck + bottleneck
  up = bottleneck * d + d
  return down + up, 2 * d


def trained(size, method, *, num_tasks):
  """Numbers that train with a method's file, by the library's own counts."""
  run = run_config.parse(
    [f'gin/models/t5_1_0_{size}.gin', f'gin/methods/{method}.gin'],
    ['data.mixture=glue', 'train.num_steps=1', 'data.vocabulary=sample'],
  )
  model = Model(
    dataclasses.replace(run.model, vocab_size=32128),
    extension.of_methods(run.method),
    num_tasks=num_tasks,
  )
  chosen = freezing.trained_parameters(
    model.logical_axes, run.train.trainable, added=model.added
  )
  counts = summary.parameter_counts(model, chosen)
  assert counts['total'] - counts['added'] == SIZES[size][2]
  assert counts['trained'] == counts['added'] + norms(size)
  return counts['trained']


def percent_per_task(size, count, num_tasks):
  """Trained parameters per task, in percent of T5's, as in the tables."""
  return round(100 * count / SIZES[size][2] / num_tasks, 2)

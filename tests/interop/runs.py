"""Run directories with given parameters, as training leaves them."""

import dataclasses
import pathlib

import numpy as np

from hypergrid_jax import trees
from hypergrid_jax.checkpoints import streaming
from hypergrid_jax.config import run_config
from hypergrid_jax.model import Model, extension
from hypergrid_jax.runs import datasets
from hypergrid_jax.runs import directory as directory_lib
from hypergrid_jax.tasks import vocabularies

SIZES = {
  'd_model': 24,
  'd_ff': 40,
  'num_heads': 3,
  'd_kv': 7,
  'num_layers': 3,
  'num_decoder_layers': 2,
}
TASKS = ('glue_rte', 'glue_cola', 'super_glue_boolq')


def bindings(tasks=TASKS, **sizes):
  return [
    f'data.mixture={tasks!r}',
    'data.inputs_length=64',
    'data.batch_size=8',
    'evaluate.batch_size=8',
    *(f'T5Config.{k}={v!r}' for k, v in {**SIZES, **sizes}.items()),
  ]


def noisy(model, seed=3):
  """Parameters without zeros, so that nothing is a special case."""
  rng = np.random.default_rng(seed)
  return {
    path: (0.2 * rng.normal(size=leaf.shape) + path.endswith('scale')).astype(
      leaf.dtype
    )
    for path, leaf in trees.flatten(model.abstract_params).items()
  }


def write(directory, method=None, *, gin=(), steps=(7,), **sizes):
  """Writes a run with one checkpoint per step, of a different seed each.

  Returns:
    Its configuration and the parameters of the last step.
  """
  run = run_config.parse(
    ['gin/runs/quickstart_plain.gin'], [*bindings(**sizes), *gin]
  )
  run = dataclasses.replace(run, method=method)
  vocabulary = vocabularies.load_vocabulary(run.data.vocabulary)
  task_ids = datasets.task_ids(run.data.mixture)
  config = run.model
  if config.vocab_size is None:
    config = dataclasses.replace(config, vocab_size=640)
  points = extension.of_methods(method)
  model = Model(config, points, num_tasks=len(task_ids))
  directory = pathlib.Path(directory)
  identity = {'task_ids': task_ids, 'vocabulary': vocabulary.fingerprint}
  directory_lib.write(
    directory, run_config.operative_config(run), {'identity': identity}
  )
  for step in steps:
    params = noisy(model, seed=step)
    streaming.write_params(
      directory,
      {p: streaming.of_array(v) for p, v in params.items()},
      {},
      step=step,
    )
  return run, params

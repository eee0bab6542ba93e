"""An example's loss does not depend on whether its row holds others.

From the text of tasks to losses in float32, through the loader, for every
method; `tests/laws` states the same of logits in float64 on random tokens.
"""

import functools
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypergrid_jax.data import loader, tokens
from hypergrid_jax.model import losses
from hypergrid_jax.tasks import definitions, vocabularies
from hypergrid_jax.tasks.rows import sources
from hypergrid_jax.testing import batches
from tests import tolerances
from tests.laws import methods

ROW_LENGTHS = (120, 40)
LENGTHS = (100, 30)
SEGMENTS = 9
PER_TASK = 40  # examples
SAMPLE_TASKS = ('glue_cola', 'glue_stsb', 'super_glue_copa')


@functools.cache
def model(name, vocab_size):
  return methods.make(name, vocab_size=vocab_size, dtype='float32')


def store_start(store, task):
  """The first examples of a store."""
  count = min(PER_TASK, store.num_examples)
  return tokens.memory_store(
    task,
    'train',
    [store.inputs(i) for i in range(count)],
    [store.targets(i) for i in range(count)],
  )


def example_losses(name, vocab_size, stores, *, packed):
  """(task id, inputs, targets) -> loss in nats, of one epoch of every task."""
  ids = {task: i % batches.NUM_TASKS for i, task in enumerate(stores)}
  batch_size = 8
  data = loader.Loader(
    stores,
    task_ids=ids,
    num_tasks=batches.NUM_TASKS,
    rates=dict.fromkeys(stores, 1 / len(stores)),
    batch_size=batch_size,
    row_lengths=ROW_LENGTHS,
    max_segments=SEGMENTS,
    seed=5,
    packed=packed,
  )
  built = model(name, vocab_size)
  params = perturbed(built)

  @jax.jit
  def token_losses(params, batch):
    logits = built.bind(params)(batch)
    return losses.token_losses(logits, batch.decoder_target_tokens)

  # Some tasks have the same example twice.
  wanted = {
    (
      ids[task],
      tuple(store.inputs(i).tolist()),
      tuple(store.targets(i).tolist()),
    )
    for task, store in stores.items()
    for i in range(store.num_examples)
  }
  found = {}
  for step in range(1000):
    batch = data.batch(step)
    values = np.asarray(token_losses(params, batch), np.float64)
    for line in range(batch_size):
      for segment in range(1, batch.encoder_segment_ids[line].max() + 1):
        inputs = batch.encoder_segment_ids[line] == segment
        targets = batch.decoder_segment_ids[line] == segment
        key = (
          int(batch.task_ids[line]),
          tuple(batch.encoder_input_tokens[line][inputs].tolist()),
          tuple(batch.decoder_target_tokens[line][targets].tolist()),
        )
        found[key] = values[line][targets].sum()
    if found.keys() == wanted:
      return found
  raise AssertionError(f'{len(found)} of {len(wanted)} examples were found')


def perturbed(built):
  """Parameters that are away from their start, where gates are all alike."""
  leaves, structure = jax.tree.flatten(built.init(jax.random.key(0)))
  rng = np.random.default_rng(2)
  return structure.unflatten(
    [
      jnp.float32(x + 0.1 * rng.standard_normal(x.shape))
      for x in map(np.asarray, leaves)
    ]
  )


def assert_same_losses(name, vocab_size, stores):
  alone = example_losses(name, vocab_size, stores, packed=False)
  together = example_losses(name, vocab_size, stores, packed=True)
  assert alone.keys() == together.keys()
  keys = list(alone)
  np.testing.assert_allclose(
    [together[key] for key in keys],
    [alone[key] for key in keys],
    **tolerances.FLOAT32,
  )


@pytest.fixture(scope='module')
def sample_stores(tmp_path_factory):
  stores = {}
  for task in SAMPLE_TASKS:
    store = tokens.open_store(
      task,
      'train',
      source='sample',
      vocabulary='sample',
      lengths=LENGTHS,
      directory=tmp_path_factory.mktemp('tokens'),
    )
    stores[task] = store_start(store, task)
  return stores


@pytest.mark.parametrize('name', methods.METHODS)
def test_sample_corpus(name, sample_stores):
  vocabulary = vocabularies.load_vocabulary('sample')
  assert_same_losses(name, vocabulary.size, sample_stores)


@pytest.mark.real_data
@pytest.mark.parametrize('name', methods.METHODS)
def test_every_task_of_the_real_mixture(name, tmp_path):
  directory = os.environ.get('HYPERGRID_REAL_DATA')
  if not directory:
    pytest.skip('HYPERGRID_REAL_DATA names no directory')
  spec = pathlib.Path(directory, 'vocab', 't5.sentencepiece.model')
  vocabulary = str(spec) if spec.exists() else 'bytes'
  stores = {}
  for task in definitions.DEFINITIONS.values():
    # Validation sets: they are small, and there for more tasks.
    for split in task.eval_splits:
      source = f'files:{directory}'
      if split in sources.available_splits(source, task):
        store = tokens.open_store(
          task.name,
          split,
          source=source,
          vocabulary=vocabulary,
          lengths=LENGTHS,
          directory=pathlib.Path(directory_of(tmp_path)),
        )
        stores[task.name] = store_start(store, task.name)
  size = vocabularies.load_vocabulary(vocabulary).size
  assert_same_losses(name, size, stores)


def directory_of(tmp_path):
  """One token directory for all methods: tokenising takes longest."""
  return tmp_path.parent / 'tokens'

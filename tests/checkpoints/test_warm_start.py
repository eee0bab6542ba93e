"""A plain T5's checkpoint goes into every method, and nothing else does."""

import jax
import numpy as np
import pytest

from hypergrid_jax import trees
from hypergrid_jax.checkpoints import reader, writer
from hypergrid_jax.errors import UserError
from hypergrid_jax.methods.hypergrid import HyperGrid
from hypergrid_jax.model import Model
from hypergrid_jax.model.config import T5Config
from hypergrid_jax.training import optimizers, state

SIZES = {
  'd_model': 12,
  'd_ff': 20,
  'num_heads': 2,
  'd_kv': 5,
  'num_layers': 3,
  'num_decoder_layers': 2,
  'vocab_size': 34,
}
GATED = HyperGrid(grid_rows=4, grid_cols=3, state='task')


def make(method=None, **sizes):
  points = method and method.extension_points()
  return Model(T5Config(**{**SIZES, **sizes}), points, num_tasks=3)


def save(directory, model, seed):
  tx = optimizers.make_optimizer(
    optimizers.AdamW(),
    optimizers.Constant(1e-3),
    logical_axes=model.logical_axes,
  )
  params = model.init(jax.random.key(seed))
  step = jax.numpy.zeros((), jax.numpy.int32)
  saved = writer.Checkpointer(directory)
  saved.save(7, state.TrainState(step, params, tx.init(params)), {})
  saved.close()
  return params


def bits(params):
  return {p: np.asarray(x) for p, x in trees.flatten(params).items()}


def test_a_plain_t5_goes_into_hypergrid(tmp_path):
  plain = bits(save(tmp_path, make(), seed=1))
  model = make(GATED)
  fresh = model.init(jax.random.key(2))
  params, new = reader.load_params(tmp_path, model, fresh)
  assert new == sorted(model.added)
  loaded, fresh = bits(params), bits(fresh)
  assert set(loaded) == set(plain) | model.added
  for path, value in loaded.items():
    expected = fresh[path] if path in model.added else plain[path]
    np.testing.assert_array_equal(value, expected, err_msg=path)


def test_the_same_method_is_taken_whole(tmp_path):
  saved = bits(save(tmp_path, make(GATED), seed=1))
  model = make(GATED)
  params, new = reader.load_params(
    tmp_path, model, model.init(jax.random.key(2))
  )
  assert new == []
  for path, value in bits(params).items():
    np.testing.assert_array_equal(value, saved[path], err_msg=path)


@pytest.mark.parametrize(
  ('saved', 'model', 'named'),
  [
    (make(d_ff=24), make(GATED), 'feed_forward/wo'),
    (make(GATED), make(), 'condition/wo/row'),
    (make(), make(GATED, logits_via_embedding=False), 'lm_head'),
  ],
)
def test_anything_else_is_refused_by_name(tmp_path, saved, model, named):
  save(tmp_path, saved, seed=1)
  with pytest.raises(UserError, match=named):
    reader.load_params(tmp_path, model, model.init(jax.random.key(2)))


def test_no_checkpoint(tmp_path):
  model = make()
  with pytest.raises(UserError, match='no checkpoint'):
    reader.load_params(tmp_path, model, model.init(jax.random.key(2)))

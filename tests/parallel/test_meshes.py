"""Training is the same on every mesh, and every parameter lies as written down.

The golden file is made by tests/goldens/make_shardings.py.
"""

import functools
import json

import jax
import numpy as np
import pytest

from hypergrid_jax import trees
from hypergrid_jax.methods.hypergrid import HyperGrid
from hypergrid_jax.model import architecture, extension
from hypergrid_jax.model.config import T5Config
from hypergrid_jax.parallel import partitioning
from hypergrid_jax.parallel.partitioning import MeshConfig
from hypergrid_jax.testing import batches
from hypergrid_jax.training import loop, optimizers, schedules, state
from tests import tolerances
from tests.goldens import make_shardings

pytestmark = pytest.mark.usefixtures('compile_quickly')

STEPS = 5
CONFIG = T5Config(
  d_model=40,
  d_ff=48,
  num_heads=8,
  d_kv=3,
  num_layers=2,
  num_decoder_layers=1,
  vocab_size=72,
  relative_buckets=6,
  relative_max_distance=7,
  dropout_rate=0.1,
  dtype='float32',
)
METHODS = {
  'plain': None,
  'hypergrid': HyperGrid(grid_rows=4, grid_cols=2, gate_wi=True),
}
# data x model as 8x1, 4x2, 2x4, 1x8, with parameters whole or divided over the
# devices that divide the rows; and two slices.
MESHES = {
  '8 data': MeshConfig(),
  '8 fsdp': MeshConfig(data=1, fsdp=8),
  '4 data, 2 model': MeshConfig(data=4, model=2),
  '4 fsdp, 2 model': MeshConfig(data=1, fsdp=4, model=2),
  '2 data, 4 model': MeshConfig(data=2, model=4),
  '2 fsdp, 4 model': MeshConfig(data=1, fsdp=2, model=4),
  '8 model': MeshConfig(data=1, model=8),
  '2 slices of 2 data, 2 fsdp': MeshConfig(slices=2, data=2, fsdp=2),
  '2 slices of 2 fsdp, 2 model': MeshConfig(slices=2, data=1, fsdp=2, model=2),
}


def trained(method: str, config: MeshConfig, devices=None):
  """Losses of every step, [STEPS, 2], and the parameters after the last."""
  mesh, rules = partitioning.make_mesh(config, devices), config.axis_rules()
  model = architecture.Model(
    CONFIG,
    extension.of_methods(METHODS[method]),
    num_tasks=batches.NUM_TASKS,
    rules=rules,
  )
  # AdamW's larger epsilon leaves rounding errors small; Adafactor divides by
  # gradients however small they are.
  tx = optimizers.make_optimizer(
    optimizers.AdamW(eps=1e-3),
    schedules.Constant(learning_rate=1e-2),
    logical_axes=model.logical_axes,
    added=model.added,
  )
  with jax.set_mesh(mesh):
    now = state.create_state(model, tx, jax.random.key(0), mesh, rules)
    step = jax.jit(
      loop.make_train_step(model, tx, loop.TrainConfig(num_steps=STEPS)),
      donate_argnums=0,
      out_shardings=(state.state_shardings(model, tx, mesh, rules), None),
    )
    losses = []
    for number in range(STEPS):
      rows = batches.rows(vocab_size=CONFIG.vocab_size, seed=number)
      rows += batches.rows(vocab_size=CONFIG.vocab_size, seed=number + 90)
      batch = jax.device_put(
        batches.batch(rows), partitioning.batch_sharding(mesh, rules)
      )
      now, metrics = step(now, batch, jax.random.key(7))
      losses.append(np.asarray(metrics.sums).sum(0))
  return np.array(losses), jax.device_get(trees.flatten(now.params))


@functools.cache
def on_one_device(method: str):
  return trained(method, MeshConfig(), jax.devices()[:1])


@pytest.mark.slow
@pytest.mark.parametrize('mesh', MESHES)
@pytest.mark.parametrize('method', METHODS)
def test_training_is_the_same_as_on_one_device(method, mesh):
  losses, params = trained(method, MESHES[mesh])
  expected_losses, expected = on_one_device(method)
  close = tolerances.of(np.float32)
  np.testing.assert_allclose(losses, expected_losses, **close)
  assert params.keys() == expected.keys()
  for path, value in params.items():
    np.testing.assert_allclose(value, expected[path], err_msg=path, **close)


def test_every_parameter_lies_as_written_down():
  """After a wanted change: python -m tests.goldens.make_shardings."""
  written = json.loads(make_shardings.GOLDEN.read_text())
  assert make_shardings.shardings() == written

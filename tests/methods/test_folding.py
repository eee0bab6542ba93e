"""One task's plain T5 computes what the model does; other parts are refused."""

import dataclasses
import functools
import re

import jax
import numpy as np
import pytest

from hypergrid_jax import trees
from hypergrid_jax.errors import UserError
from hypergrid_jax.interop import exporting
from hypergrid_jax.methods import folding
from hypergrid_jax.methods.adapters import Adapters
from hypergrid_jax.methods.ca_mtl import CAMTL
from hypergrid_jax.methods.hyperformer import HyperFormer
from hypergrid_jax.methods.hypergrid import HyperGrid
from hypergrid_jax.model import Model, extension
from hypergrid_jax.model.config import T5Config
from tests import tolerances
from tests.interop import runs

pytestmark = pytest.mark.usefixtures('compile_quickly', 'x64')

CONFIG = T5Config(
  **runs.SIZES,
  vocab_size=50,
  mlp_activations=('gelu', 'linear'),
  dtype='float64',
)
NUM_TASKS, TASK, OTHER = 4, 2, 0
GATES = HyperGrid(grid_rows=4, grid_cols=3, state='task')
NORMS = CAMTL(alignment=False, attention=None, bottleneck=None)
FOLDED = {
  'L2': GATES,
  'L': dataclasses.replace(GATES, variant='L', gate_wi=True),
  'LG in one layer of the encoder': dataclasses.replace(
    GATES, variant='LG', form='residual', layers=(1,), decoder=False
  ),
  'GL': dataclasses.replace(GATES, variant='GL', form='plain'),
  'all norms': dataclasses.replace(
    NORMS, norm_layers=(0, 1), decoder_norm=True, final_norm=True
  ),
  'all kernels, and norms of the upper half': (
    dataclasses.replace(GATES, gate_wi=True, col_width=8),
    NORMS,
  ),
}
TASK_IDS = np.array([TASK, OTHER, TASK, OTHER], np.int32)


@functools.cache
def plain_model():
  return Model(CONFIG)


@functools.cache
def program(model):
  return jax.jit(lambda params, batch: model.bind(params)(batch))


def logits(model, params):
  batch = exporting.sample_rows(CONFIG.vocab_size, 0)
  batch = dataclasses.replace(batch, task_ids=TASK_IDS)
  values = program(model)(trees.unflatten(params), batch)
  return np.where(batch.decoder_segment_ids[..., None] > 0, values, 0)


@pytest.mark.parametrize('name', FOLDED)
def test_a_plain_t5_computes_one_task(name):
  points = extension.of_methods(FOLDED[name])
  model = Model(CONFIG, points, num_tasks=NUM_TASKS)
  params = runs.noisy(model)
  params = {path: value.astype(np.float64) for path, value in params.items()}
  kept = {path: value.copy() for path, value in params.items()}
  folded = folding.fold(
    FOLDED[name], CONFIG, params, TASK, plain=plain_model().plain
  )
  found, expected = logits(plain_model(), folded), logits(model, params)
  assert 0.1 < np.abs(expected).max() < 100
  np.testing.assert_allclose(
    found[TASK_IDS == TASK],
    expected[TASK_IDS == TASK],
    **tolerances.FLOAT64,
  )
  difference = found[TASK_IDS == OTHER] - expected[TASK_IDS == OTHER]
  assert np.abs(difference).max() > 1e-3
  for path, value in params.items():
    np.testing.assert_array_equal(value, kept[path], err_msg=path)


REFUSED = {
  'first token': (
    dataclasses.replace(GATES, state='first_token'),
    "HyperGrid.state = 'first_token' cannot be folded .*hidden states",
  ),
  'adapters': (
    Adapters(variant='single', reduction_factor=4),
    'Adapters cannot be folded into a plain T5: .*no adapters',
  ),
  'hyperformer': (
    HyperFormer(reduction_factor=4),
    'HyperFormer cannot be folded',
  ),
  'alignment': (
    dataclasses.replace(NORMS, alignment=True),
    'CAMTL.alignment cannot be folded .*one table for both',
  ),
  'attention': (
    dataclasses.replace(NORMS, attention='window'),
    'CAMTL.attention cannot be folded .*bias on attention',
  ),
  'bottleneck': (
    dataclasses.replace(NORMS, bottleneck='top'),
    'CAMTL.bottleneck cannot be folded',
  ),
  'one of two': (
    (GATES, dataclasses.replace(NORMS, bottleneck='ladder')),
    'CAMTL.bottleneck cannot be folded',
  ),
}


@pytest.mark.parametrize('name', REFUSED)
def test_a_part_that_has_no_plain_t5_is_named(name):
  method, said = REFUSED[name]
  points = extension.of_methods(method)
  params = runs.noisy(Model(CONFIG, points, num_tasks=NUM_TASKS))
  with pytest.raises(UserError) as refusal:
    folding.fold(method, CONFIG, params, TASK, plain=plain_model().plain)
  assert re.search(said, str(refusal.value))


def test_a_method_that_does_not_say_how_is_refused():
  class New:
    pass

  with pytest.raises(UserError, match='New cannot be folded.*does not say'):
    folding.fold(New(), CONFIG, {}, TASK, plain=())


def test_parameters_that_were_left_are_no_plain_t5():
  class New:
    def fold(self, config, params, task_id):
      return dict(params)

  params = runs.noisy(plain_model())
  with pytest.raises(ValueError, match='encoder/new'):
    folding.fold(
      New(),
      CONFIG,
      {**params, 'encoder/new': np.ones(3)},
      TASK,
      plain=plain_model().plain,
    )

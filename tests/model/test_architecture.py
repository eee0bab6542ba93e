"""Parameter trees: their sizes, names, axes and what a method adds."""

import json
import math

import jax
import numpy as np
import pytest

from hypergrid_jax import trees
from hypergrid_jax.methods.hypergrid import HyperGrid
from hypergrid_jax.model import architecture, t5
from hypergrid_jax.testing import batches
from tests.goldens import make_parameter_trees as goldens

SMALL = {
  'd_model': 512,
  'd_ff': 2048,
  'num_heads': 8,
  'd_kv': 64,
  'num_layers': 6,
  'num_decoder_layers': 6,
  'vocab_size': 32128,
}
BASE = {
  **SMALL,
  'd_model': 768,
  'd_ff': 3072,
  'num_heads': 12,
  'num_layers': 12,
  'num_decoder_layers': 12,
}
# The 1.1 sizes are the published ones; google/t5-v1_1-{small,base}.
SMALL_1_1 = {
  **SMALL,
  'd_ff': 1024,
  'num_heads': 6,
  'num_layers': 8,
  'num_decoder_layers': 8,
}
BASE_1_1 = {**BASE, 'd_ff': 2048}
V1_1 = {'mlp_activations': ('gelu', 'linear'), 'logits_via_embedding': False}


def sizes(model):
  return {
    path: math.prod(leaf.shape)
    for path, leaf in trees.flatten(model.abstract_params).items()
  }


@pytest.mark.parametrize(
  ('config', 'expected'),
  [
    (SMALL, 60_506_624),
    (BASE, 222_903_552),
    ({**SMALL_1_1, **V1_1}, 76_961_152),
    ({**BASE_1_1, **V1_1}, 247_577_856),
  ],
  ids=['small 1.0', 'base 1.0', 'small 1.1', 'base 1.1'],
)
def test_t5_has_its_published_number_of_parameters(config, expected):
  model = architecture.Model(t5.T5Config(**config))
  assert sum(sizes(model).values()) == expected
  assert not model.added


D, F, ROWS, COLS = 12, 20, 4, 2
TINY = {
  'd_model': D,
  'd_ff': F,
  'num_heads': 2,
  'd_kv': 5,
  'num_layers': 5,
  'num_decoder_layers': 3,
  'vocab_size': 30,
}


@pytest.mark.parametrize(
  ('variant', 'per_kernel'),
  [
    ('L', {'wo': D * D, 'wi': D * F}),
    ('L2', dict.fromkeys(('wo', 'wi'), (ROWS + COLS) * D)),
    ('LG', dict.fromkeys(('wo', 'wi'), ROWS * D + COLS)),
    ('GL', dict.fromkeys(('wo', 'wi'), ROWS + COLS * D)),
  ],
)
@pytest.mark.parametrize(
  ('choice', 'gated', 'kernels'),
  [
    ({}, 8, ['wo']),
    ({'gate_wi': True}, 8, ['wo', 'wi']),
    ({'gate_wi': True, 'gate_wo': False, 'decoder': False}, 5, ['wi']),
    ({'layers': 'upper_half'}, 3 + 2, ['wo']),
    ({'layers': (0, 2), 'encoder': False}, 2, ['wo']),
  ],
  ids=lambda value: None if isinstance(value, int) else str(value),
)
def test_hypergrid_adds(variant, per_kernel, choice, gated, kernels):
  method = HyperGrid(variant=variant, grid_rows=ROWS, grid_cols=COLS, **choice)
  model = architecture.Model(t5.T5Config(**TINY), method.extension_points())
  added = sum(sizes(model)[path] for path in model.added)
  assert added == gated * sum(per_kernel[kernel] for kernel in kernels)
  plain = sizes(architecture.Model(t5.T5Config(**TINY)))
  assert sum(sizes(model).values()) == sum(plain.values()) + added


def test_a_gated_feed_forward_adds_for_each_of_its_two_inputs():
  method = HyperGrid(
    grid_rows=ROWS, grid_cols=COLS, gate_wi=True, decoder=False
  )
  config = t5.T5Config(**TINY, **V1_1)
  model = architecture.Model(config, method.extension_points())
  assert sum(sizes(model)[path] for path in model.added) == 5 * 3 * 6 * D


def test_the_task_state_adds_a_table_per_gated_stack():
  method = HyperGrid(grid_rows=ROWS, grid_cols=COLS, state='task')
  model = architecture.Model(
    t5.T5Config(**TINY), method.extension_points(), num_tasks=7
  )
  tables = {path: sizes(model)[path] for path in model.added if 'task' in path}
  assert tables == {
    'encoder/condition/task/embedding': 7 * D,
    'decoder/condition/task/embedding': 7 * D,
  }


def test_base_with_32_by_32_grids_adds_1_179_648():
  method = HyperGrid(grid_rows=32, grid_cols=32)
  model = architecture.Model(t5.T5Config(**BASE), method.extension_points())
  assert sum(sizes(model)[path] for path in model.added) == 1_179_648


@pytest.mark.parametrize('name', goldens.CASES)
def test_parameter_tree_equals_the_golden(name):
  """After a wanted change: python -m tests.goldens.make_parameter_trees."""
  recorded = json.loads(goldens.GOLDEN.read_text())
  assert recorded.keys() == goldens.CASES.keys()
  assert goldens.describe(name) == recorded[name]


def test_bound_modules_hold_the_given_parameters():
  config, method = goldens.CASES['hypergrid L2']
  model = architecture.Model(config, method.extension_points())
  params = batches.random_params(model.abstract_params, dtype=np.float32)
  module = model.bind(params)
  layer = params['decoder']['layers']
  np.testing.assert_array_equal(
    module.decoder.layers.cross_attention.key[...],
    layer['cross_attention']['key'],
  )
  np.testing.assert_array_equal(
    module.encoder.condition.method.wo.col[...],
    params['encoder']['condition']['wo']['col'],
  )


def test_seeds_make_different_parameters_and_the_same_seed_the_same():
  config = t5.T5Config(**{**TINY, 'num_layers': 2, 'num_decoder_layers': 1})
  method = HyperGrid(grid_rows=ROWS, grid_cols=COLS)
  model = architecture.Model(config, method.extension_points())
  init = jax.jit(model.init)
  first, again, other = (
    trees.flatten(init(jax.random.key(seed, impl='unsafe_rbg')))
    for seed in (5, 5, 6)
  )
  constant = {path for path in first if path.endswith(('scale', 'col'))}
  for path, leaf in first.items():
    np.testing.assert_array_equal(leaf, again[path])
    assert np.array_equal(leaf, other[path]) == (path in constant), path
    if path not in constant and path.startswith('encoder/layers'):
      assert not np.array_equal(leaf[0], leaf[1]), path

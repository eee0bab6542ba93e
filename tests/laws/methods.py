"""The methods that must keep the laws, each built into a small T5.

Together they cover each variant, state, form, kernel, stack and choice of
layers at least once, on T5 1.0 and 1.1.
"""

import functools

from hypergrid_jax import model as model_lib
from hypergrid_jax import t5
from hypergrid_jax.methods.hypergrid import HyperGridConfig
from tests import batches

SIZES = {
  'd_model': 12,
  'd_ff': 20,
  'num_heads': 2,
  'd_kv': 5,
  'num_layers': 3,
  'num_decoder_layers': 2,
  'vocab_size': 34,
  'dtype': 'float64',
  'relative_buckets': 6,
  'relative_max_distance': 7,
}
V1_1 = {'mlp_activations': ('gelu', 'linear'), 'logits_via_embedding': False}

METHODS = {
  'plain 1.0': ({}, None),
  'plain 1.1': (V1_1, None),
  'L2 first identity': (V1_1, HyperGridConfig(grid_rows=4, grid_cols=3)),
  'LG mean residual wi+wo encoder': (
    {},
    HyperGridConfig(
      variant='LG',
      state='mean',
      form='residual',
      grid_rows=2,
      grid_cols=4,
      gate_wi=True,
      decoder=False,
      layers=(0, 2),
    ),
  ),
  'GL task plain upper half': (
    V1_1,
    HyperGridConfig(
      variant='GL',
      state='task',
      form='plain',
      grid_rows=5,
      grid_cols=6,
      layers='upper_half',
    ),
  ),
  'L first identity one layer': (
    {},
    HyperGridConfig(variant='L', gate_wi=True, layers=(1,)),
  ),
  'L2 mean plain wi decoder': (
    {},
    HyperGridConfig(
      state='mean',
      form='plain',
      grid_rows=3,
      grid_cols=10,
      gate_wi=True,
      gate_wo=False,
      encoder=False,
    ),
  ),
}


@functools.cache
def make(name: str, **overrides) -> model_lib.Model:
  """The model of a method, with other settings of its T5 if given."""
  sizes, method = METHODS[name]
  return model_lib.Model(
    t5.T5Config(**{**SIZES, **sizes, **overrides}),
    method and method.extension_points(),
    num_tasks=batches.NUM_TASKS,
  )

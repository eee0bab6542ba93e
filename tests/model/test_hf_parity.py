"""T5's core equals Hugging Face transformers' T5, weights copied over."""

import functools

import jax
import numpy as np
import pytest

from hypergrid_jax import trees, types
from hypergrid_jax.model import architecture
from tests.goldens import make_hf_golden as hf

ATOL = 1e-5


@functools.cache
def our_outputs(name):
  """Encoder output and logits at every position, float32."""
  config = hf.CASES[name]
  model = architecture.Model(config)
  inputs, targets = hf.tokens(config)
  sides = [
    types.Segments(
      ids=mask.astype(np.int32),
      starts=np.zeros((len(mask), 1), np.int32),
      positions=np.zeros(mask.shape, np.int32),  # T5 uses differences only
    )
    for mask in hf.masks()
  ]

  @jax.jit
  def run(params, inputs, targets, sides, tasks):
    module = model.bind(params)
    encoded = module.encode(inputs, sides[0], tasks)
    return encoded, module.decode(targets, sides[1], encoded, sides[0], tasks)

  params = trees.unflatten(hf.weights(config))
  return run(params, inputs, targets, sides, np.zeros(len(inputs), np.int32))


def compare(name, encoded, logits):
  mask, target_mask = hf.masks()
  for ours, theirs, real in zip(
    our_outputs(name), (encoded, logits), (mask, target_mask), strict=True
  ):
    np.testing.assert_allclose(
      np.asarray(ours)[real], theirs[real], rtol=0, atol=ATOL
    )


@pytest.mark.parametrize('name', hf.CASES)
def test_encoder_and_logits_equal_the_recorded_ones(name):
  with np.load(hf.GOLDEN) as golden:
    compare(name, golden[f'{name}/encoded'], golden[f'{name}/logits'])


@pytest.mark.torch
@pytest.mark.parametrize('name', hf.CASES)
def test_encoder_and_logits_equal_transformers(name):
  pytest.importorskip('transformers')
  compare(name, *hf.hf_outputs(hf.CASES[name]))

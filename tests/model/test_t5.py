"""The T5 stacks: configuration, causality, masks, numerics, recomputation."""

import dataclasses
import functools

import jax
from jax.extend import core as jax_core
import jax.numpy as jnp
import numpy as np
import pytest

from hypergrid_jax import errors
from hypergrid_jax.methods.hypergrid import HyperGrid
from hypergrid_jax.model import architecture, losses, t5
from hypergrid_jax.testing import batches

V1_1 = {'mlp_activations': ('gelu', 'linear'), 'logits_via_embedding': False}
CONFIG = t5.T5Config(
  d_model=12,
  d_ff=20,
  num_heads=2,
  d_kv=5,
  num_layers=3,
  num_decoder_layers=2,
  vocab_size=60,
  dtype='float32',
  **V1_1,
)


def make(**overrides):
  method = HyperGrid(grid_rows=4, grid_cols=3)
  return architecture.Model(
    dataclasses.replace(CONFIG, **overrides), method.extension_points()
  )


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'dtype': 'float16'}, 'dtype: float16 overflows'),
    ({'dtype': 'int8'}, "dtype: got 'int8'"),
    ({'d_kv': 0}, 'd_kv: got 0, expected at least 1'),
    ({'num_decoder_layers': 0}, 'num_decoder_layers: got 0'),
    ({'dropout_rate': 1.0}, 'dropout_rate: got 1.0'),
    ({'remat_policy': 'minimum'}, "'minimum'.*Did you mean 'minimal'"),
    ({'mlp_activations': ('rleu',)}, "'rleu'.*Did you mean 'relu'"),
    ({'mlp_activations': ('relu',) * 3}, 'expected one name'),
  ],
)
def test_configurations_that_make_no_t5_are_refused(change, message):
  with pytest.raises(errors.UserError, match=rf'T5Config\..*{message}'):
    dataclasses.replace(CONFIG, **change)


def test_gradients_are_causal_and_stay_in_their_example():
  """Each token is used once, so the token table's gradient names positions."""
  model = make()
  rows = [
    [batches.Example((2, 3, 4), (5, 6, 7)), batches.Example((8, 9), (10, 11))],
    [batches.Example((12, 13, 14, 15), (16, 17, 18, 19))],
  ]
  batch = batches.batch(rows, lengths=(6, 5), num_segments=2)
  # A start token of its own for every segment: 20, 21 and 22.
  starts = [(0, 0, 20), (0, 3, 21), (1, 0, 22)]
  for b, t, token in starts:
    batch.decoder_input_tokens[b, t] = token
  expected = {
    (0, 0): {2, 3, 4, 20},
    (0, 1): {2, 3, 4, 20, 5},
    (0, 2): {2, 3, 4, 20, 5, 6},
    (0, 3): {8, 9, 21},
    (0, 4): {8, 9, 21, 10},
    (1, 2): {12, 13, 14, 15, 22, 16, 17},
    (1, 3): {12, 13, 14, 15, 22, 16, 17, 18},
  }
  params = batches.random_params(model.abstract_params, dtype=np.float32)

  @jax.jit
  def used(params, batch, b, t):
    def output(table):
      changed = {**params, 'token_embedder': {'embedding': table}}
      return jnp.sum(jnp.sin(model.bind(changed)(batch)[b, t]))

    table = params['token_embedder']['embedding']
    return jnp.any(jax.grad(output)(table), axis=1)

  for (b, t), tokens in expected.items():
    found = np.flatnonzero(used(params, batch, b, t))
    assert set(found.tolist()) == tokens, (b, t)


def test_segment_mask_is_true_within_a_segment_and_never_for_padding():
  mask = t5.segment_mask(jnp.array([[1, 2, 0]]), jnp.array([[1, 1, 2, 0]]))
  assert mask[0, 0].tolist() == [
    [True, True, False, False],
    [False, False, True, False],
    [False, False, False, False],
  ]


def inputs(vocab_size=CONFIG.vocab_size):
  return batches.batch(batches.rows(vocab_size=vocab_size))


def test_bfloat16_is_near_float32_and_its_logits_are_float32():
  params = batches.random_params(make().abstract_params, dtype=np.float32)

  def run(dtype):
    model = make(dtype=dtype)
    return jax.jit(lambda params, batch: model.bind(params)(batch))(
      params, inputs()
    )

  exact, rounded = run('float32'), run('bfloat16')
  assert rounded.dtype == jnp.float32
  real = inputs().decoder_loss_weights > 0
  difference = np.abs(rounded - exact)[real]
  assert 0 < difference.max() < 0.1 * np.abs(exact[real]).max()
  # Logits written in bfloat16 would all have their last 16 bits zero.
  assert np.any(np.asarray(rounded).view(np.uint32) & 0xFFFF)


def equations(jaxpr):
  for equation in jaxpr.eqns:
    yield equation
    for inner in jax_core.jaxprs_in_params(equation.params):
      yield from equations(inner)


def traced(function, *arguments):
  return list(equations(jax.make_jaxpr(function)(*arguments).jaxpr))


def test_norms_softmax_and_loss_are_float32_under_bfloat16():
  model = make(dtype='bfloat16')

  def loss(params, batch):
    nats = losses.token_losses(
      model.bind(params)(batch), batch.decoder_target_tokens
    )
    return jnp.sum(nats * batch.decoder_loss_weights)

  found = traced(loss, model.abstract_params, inputs())
  used = {'rsqrt': set(), 'exp': set(), 'log': set(), 'dot_general': set()}
  for equation in found:
    name = equation.primitive.name
    if name in used and equation.outvars[0].aval.ndim > 1:
      used[name].add(equation.invars[0].aval.dtype.name)
  assert used['rsqrt'] == used['exp'] == used['log'] == {'float32'}
  # The gate's own projections of the conditioning vector are float32.
  assert used['dot_general'] == {'bfloat16', 'float32'}


def test_remat_policies_recompute_nothing_some_and_all():
  """Matmuls in the gradient: the forward ones return in the backward pass."""

  def matmuls(policy):
    model = make(remat_policy=policy)

    def loss(params, batch):
      return jnp.sum(model.bind(params)(batch))

    found = traced(jax.grad(loss), model.abstract_params, inputs())
    return sum(e.primitive.name == 'dot_general' for e in found)

  none, minimal, full = map(matmuls, ('none', 'minimal', 'full'))
  assert none < minimal < full


@pytest.mark.parametrize('activations', [('relu',), ('gelu', 'linear')])
def test_no_remat_policy_makes_gates_or_gated_products_again(activations):
  """A block of 5 rows of the gated kernel has a shape like nothing else."""

  def found(policy):
    model = make(remat_policy=policy, mlp_activations=activations, d_kv=7)

    def loss(params, batch, key):
      return jnp.sum(model.bind(params)(batch, dropout_key=key))

    key = jax.random.key(0)
    gradient = traced(jax.grad(loss), model.abstract_params, inputs(), key)
    names = [
      equation.primitive.name
      for equation in gradient
      if equation.primitive.name == 'logistic'
      or any(v.aval.shape == (5, 12) for v in equation.invars)
    ]
    return names.count('logistic'), names.count('dot_general')

  gates, products = found('none')
  assert products > 0 < gates
  assert found('minimal') == found('full') == (gates, products)


def test_dropout_is_the_same_scanned_and_unrolled_and_differs_by_key():
  params = batches.random_params(make().abstract_params, dtype=np.float32)
  key = functools.partial(jax.random.key, impl='unsafe_rbg')

  def run(**overrides):
    model = make(dropout_rate=0.4, **overrides)
    return jax.jit(
      lambda params, batch, key: model.bind(params)(batch, dropout_key=key)
    )

  scanned = run()
  first = scanned(params, inputs(), key(1))
  unrolled = run(scan_layers=False)(params, inputs(), key(1))
  np.testing.assert_allclose(first, unrolled, rtol=0, atol=1e-4)
  assert np.abs(first - scanned(params, inputs(), key(2))).max() > 0.1

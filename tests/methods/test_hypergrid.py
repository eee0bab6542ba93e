"""HyperGrid's feed-forward layers against loops; what its options refuse."""

import functools

from flax import nnx
import jax
import numpy as np
import pytest

from hypergrid_jax import errors, types
from hypergrid_jax.methods.hypergrid import HyperGrid
from hypergrid_jax.model import architecture, extension, t5
from hypergrid_jax.testing import batches

D, F, TASKS = 6, 10, 4
B, L, LE = 3, 5, 7
CONFIG = t5.T5Config(
  d_model=D,
  d_ff=F,
  num_heads=2,
  d_kv=3,
  num_layers=4,
  num_decoder_layers=3,
  vocab_size=8,
  dtype='float64',
  mlp_activations=('gelu', 'linear'),
)
FORMS = {
  'plain': lambda s: s,
  'residual': lambda s: 1 + s,
  'identity': lambda s: 2 * s,
}
# Each variant, state, form and choice of kernels. Layer 2, the second of the
# gated ones, is looked at.
CASES = {
  'L': HyperGrid('L', layers=(1, 2), gate_wi=True),
  'L2': HyperGrid(
    'L2', grid_rows=5, grid_cols=3, layers=(1, 2), state='mean', form='residual'
  ),
  'LG': HyperGrid(
    'LG', grid_rows=2, grid_cols=2, layers=(1, 2), state='task', gate_wi=True
  ),
  'GL': HyperGrid(
    'GL',
    grid_rows=3,
    grid_cols=5,
    layers=(1, 2),
    form='plain',
    gate_wi=True,
    gate_wo=False,
  ),
}
# Three, one and two segments in a row; uneven, and not alike on both sides.
IDS = np.array([[1, 1, 2, 3, 3], [1, 1, 1, 1, 1], [1, 2, 2, 2, 0]], np.int32)
STARTS = np.array([[0, 2, 3], [0, 0, 0], [0, 1, 0]], np.int32)
ENCODER_IDS = np.array(
  [[1, 2, 2, 2, 3, 3, 3], [1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 2, 2, 2, 2]],
  np.int32,
)
ENCODER_STARTS = np.array([[0, 1, 4], [0, 0, 0], [0, 3, 0]], np.int32)
TASK_IDS = np.array([3, 0, 3], np.int32)


def segments(ids, starts):
  return types.Segments(ids, starts, np.zeros_like(ids))


def feed_forward(model, stack_name, layer, *arrays):
  """One layer's feed-forward on both stacks' segments; see `_feed_forward`."""
  encoder = segments(ENCODER_IDS, ENCODER_STARTS)
  own = segments(IDS, STARTS if stack_name == 'encoder' else ENCODER_STARTS)
  return _feed_forward(
    model, stack_name, layer, *arrays, own, encoder, TASK_IDS
  )


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _feed_forward(
  model,
  stack_name,
  layer,
  params,
  x,
  encoded,
  segments,
  encoder_segments,
  task_ids,
):
  """Runs the layer through its stack's own conditioning."""
  stack = getattr(model.bind(params), stack_name)
  read = {}
  if stack_name == 'decoder':
    read = {'encoder_output': encoded, 'encoder_segments': encoder_segments}
  cond = stack.condition(extension.ConditionInputs(task_ids, segments, **read))
  graph, stacked = nnx.split(stack.layers)
  one, per_layer = jax.tree.map(
    lambda leaf: leaf[layer], (stacked, extension.per_layer(cond))
  )
  block = nnx.merge(graph, one).feed_forward
  seen = extension.by_point(extension.of_layer(cond, per_layer), stack.owners)
  return block(x, seen['feed_forward'], segments)


def state_of(method, params, stack, x, encoded, b, segment):
  """The conditioning vector of one segment of one row."""
  if method.state == 'task':
    table = params[stack]['condition']['task']['embedding']
    return table[TASK_IDS[b]]
  ids, hidden = (IDS, x) if stack == 'encoder' else (ENCODER_IDS, encoded)
  tokens = [hidden[b, t] for t in range(ids.shape[1]) if ids[b, t] == segment]
  if method.state == 'first_token':
    return tokens[0]
  return sum(tokens) / len(tokens)


def multiply(method, name, u, kernel, factors, state):
  """u @ (gate * kernel), gate by gate."""
  form = FORMS[method.form]
  gated = name in (('wi_0', 'wi_1') if method.gate_wi else ()) or (
    name == 'wo' and method.gate_wo
  )
  inputs, outputs = kernel.shape
  y = np.zeros(outputs)
  for n, k in np.ndindex(outputs, inputs):
    gate = 1.0
    if gated and method.variant == 'L':
      gate = form(sigmoid(state @ factors[name]['col'][1][:, n]))
    elif gated:
      r = k * method.grid_rows // inputs
      c = n * method.grid_cols // outputs
      row, col = factors[name]['row'][1], factors[name]['col'][1]
      row = row[r] if method.variant == 'GL' else state @ row[:, r]
      col = col[c] if method.variant == 'LG' else state @ col[:, c]
      gate = form(sigmoid(row * col))
    y[n] += gate * u[k] * kernel[k, n]
  return y


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def gelu(x):
  return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize('stack', ['encoder', 'decoder'])
@pytest.mark.parametrize('variant', CASES)
def test_feed_forward_equals_loops(x64, variant, stack):
  method = CASES[variant]
  model = architecture.Model(CONFIG, method.extension_points(), num_tasks=TASKS)
  params = batches.random_params(model.abstract_params, seed=len(stack))
  rng = np.random.default_rng(4)
  x, encoded = (rng.standard_normal((B, n, D)) for n in (L, LE))
  kernels = {
    name: leaf[2]
    for name, leaf in params[stack]['layers']['feed_forward'].items()
  }
  y = np.asarray(feed_forward(model, stack, 2, params, x, encoded))
  factors = params[stack]['condition']
  for b, t in zip(*np.nonzero(IDS), strict=True):
    state = state_of(method, params, stack, x, encoded, b, IDS[b, t])

    def times(name, u, state=state):
      return multiply(method, name, u, kernels[name], factors, state)

    hidden = gelu(times('wi_0', x[b, t])) * times('wi_1', x[b, t])
    np.testing.assert_allclose(
      y[b, t], times('wo', hidden), rtol=0, atol=1e-12, err_msg=f'{b} {t}'
    )


def test_a_layer_that_is_not_selected_is_plain(x64):
  model = architecture.Model(CONFIG, CASES['L2'].extension_points())
  params = batches.random_params(model.abstract_params)
  rng = np.random.default_rng(5)
  x, encoded = (rng.standard_normal((B, n, D)) for n in (L, LE))
  kernels = params['encoder']['layers']['feed_forward']
  for layer in (0, 3):
    wi_0, wi_1, wo = (kernels[name][layer] for name in ('wi_0', 'wi_1', 'wo'))
    np.testing.assert_allclose(
      feed_forward(model, 'encoder', layer, params, x, encoded),
      (gelu(x @ wi_0) * (x @ wi_1)) @ wo,
      rtol=0,
      atol=1e-12,
    )


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'variant': 'l2'}, "variant: got 'l2'.*Did you mean 'L2'"),
    ({'state': 'first'}, "state: got 'first'.*Did you mean 'first_token'"),
    ({'form': 'residal'}, "form: got 'residal'.*Did you mean 'residual'"),
    ({'grid_rows': 0}, 'grid_rows: got 0, expected at least 1'),
    ({'grid_cols': -2}, 'grid_cols: got -2'),
    ({'layers': 'lower'}, "layers: got 'lower'.*upper_half"),
    ({'layers': ()}, r'layers: got \(\).*at least one'),
    ({'gate_wo': False}, 'gate_wo and .* nothing would be gated'),
    ({'encoder': False, 'decoder': False}, 'encoder and .* both False'),
  ],
)
def test_unknown_choices_are_refused(unchecked, options, message):
  with pytest.raises(errors.UserError, match=rf'HyperGrid\.{message}'):
    HyperGrid(**options)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'grid_rows': 4}, r"grid_rows = 4 .*'wo' \(10\).*\[1, 2, 5\]"),
    ({'grid_cols': 4}, r"grid_cols = 4 .*'wo' \(6\)"),
    ({'grid_rows': 5, 'gate_wi': True}, r"grid_rows = 5 .*'wi_0' \(6\)"),
    ({'layers': (0, 3)}, r'no layer 3 in a stack of 3 \(0\.\.2\)'),
    ({'layers': (-1,)}, 'no layer -1 in a stack of 4'),
  ],
)
def test_grids_and_layers_that_do_not_fit_are_refused(options, message):
  method = HyperGrid(**{'grid_rows': 2, 'grid_cols': 2, **options})
  with pytest.raises(errors.UserError, match=message):
    architecture.Model(CONFIG, method.extension_points())


def test_variant_l_has_no_grid_to_divide():
  method = HyperGrid('L', grid_rows=7, grid_cols=7)
  model = architecture.Model(CONFIG, method.extension_points())
  assert len(model.added) == 2


@pytest.mark.parametrize(
  ('layers', 'count', 'expected'),
  [
    ('all', 3, (0, 1, 2)),
    ('upper_half', 5, (2, 3, 4)),
    ('upper_half', 1, (0,)),
    ((2, 0, 2), 3, (0, 2)),
  ],
)
def test_selected_layers(layers, count, expected):
  assert HyperGrid(layers=layers).selected_layers(count) == expected


def test_combining_two_methods_at_one_point_names_both():
  hypergrid = HyperGrid().extension_points()
  other = extension.ExtensionPoints(feed_forward=lambda site, *, rngs: None)
  with pytest.raises(
    errors.UserError, match="'hypergrid' and 'other' both .*'feed_forward'"
  ):
    extension.combine(hypergrid=hypergrid, other=other)


def test_combining_keeps_every_methods_points():
  hypergrid = HyperGrid().extension_points()
  norm = extension.ExtensionPoints(norm=lambda site, *, rngs: None)
  both = extension.combine(hypergrid=hypergrid, norm=norm)
  assert both.norm is norm.norm
  assert both.feed_forward is hypergrid.feed_forward
  assert both.conditions == {'hypergrid': hypergrid.condition}
  assert both.after_embed is extension.identity

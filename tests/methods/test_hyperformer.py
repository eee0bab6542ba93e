"""HyperFormer: forward passes in NumPy, published counts, what is generated."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypergrid_jax import errors, types
from hypergrid_jax.methods.hyperformer import HyperFormer
from hypergrid_jax.model import decoding, extension
from hypergrid_jax.testing import batches
from tests import jaxprs, tolerances
from tests.methods import numpy_t5, published

pytestmark = pytest.mark.usefixtures('compile_quickly')

SMALL = {'reduction_factor': 4, 'embed_dim': 6, 'hidden_dim': 11, 'seed_dim': 8}
TASKS = batches.NUM_TASKS


def affine(x, weights):
  """Entry by entry of what is made, which may have two dimensions."""
  made = np.zeros(weights['bias'].shape)
  for index in np.ndindex(*made.shape):
    column = weights['kernel'][(slice(None), *index)]
    made[index] = x @ column + weights['bias'][index]
  return made


def mlp(x, weights):
  hidden = numpy_t5.relu(affine(x, weights['first']))
  return affine(hidden, weights['second'])


def vector(variant, params, task, stack, layer, position):
  """I, from which all weights of one adapter are made."""
  row = params['task_vectors']['embedding'][task]
  if variant == 'per_position':
    return mlp(row, params['task_vectors']['mlp'])
  own = params[stack]['condition']
  known = [row, own['source']['layer_ids'][layer]]
  if variant == 'plus_plus':
    known.append(own['block_types'][position])
  made = mlp(np.concatenate(known), own['source']['mlp'])
  gain, bias = (own['source']['norm'][name] for name in ('scale', 'bias'))
  return numpy_t5.layer_norm(made, gain, bias, 1e-6)


def weights_of(variant, params):
  """(task, stack, layer, position) -> the adapter's weights."""

  def find(task, stack, layer, position):
    own = params[stack]['condition']
    generators = own['generators' if variant == 'plus_plus' else position]
    if variant == 'per_position':
      generators = jax.tree.map(lambda leaf: leaf[layer], generators)
    made_from = vector(variant, params, task, stack, layer, position)
    return {name: affine(made_from, generators[name]) for name in generators}

  return find


def build(variant, version='1.0'):
  model = numpy_t5.make(HyperFormer(variant, **SMALL), version)
  return model, batches.random_params(model.abstract_params, seed=1)


@pytest.mark.parametrize(
  ('variant', 'version'),
  [('plus_plus', '1.1'), ('per_position', '1.0'), ('released', '1.1')],
)
def test_forward_equals_numpy(x64, variant, version):
  model, params = build(variant, version)
  numpy_t5.assert_forward_equals(model, params, weights_of(variant, params))


def generators(size):
  """Numbers that make one adapter from 64: a weight and a bias for each."""
  return (64 + 1) * sum(published.adapter(size))


MLP = {
  inputs: (inputs + 1) * 128 + (128 + 1) * 64 for inputs in (128, 192, 512)
}
NORM = 2 * 64
TABLE = 8 * 64


@pytest.mark.parametrize(
  ('size', 'count', 'percent'),
  [('small', 2_415_776, 0.50), ('base', 5_211_056, 0.29)],
)
def test_plus_plus_has_the_published_count(size, count, percent):
  layers = published.SIZES[size][1]
  embeddings = (layers + 2) * 64
  stack = generators(size) + embeddings + MLP[192] + NORM
  assert published.trained(size, 'hyperformer_pp', num_tasks=8) == count
  assert count == 2 * stack + TABLE + published.norms(size)
  assert published.percent_per_task(size, count, 8) == percent


@pytest.mark.parametrize(
  ('size', 'count', 'percent'),
  [('small', 28_074_560, 5.80), ('base', 122_404_672, 6.86)],
)
def test_per_position_has_the_published_count(size, count, percent):
  places = 2 * 2 * published.SIZES[size][1]
  seeds = 8 * 512
  assert published.trained(size, 'hyperformer', num_tasks=8) == count
  assert count == (
    places * generators(size) + seeds + MLP[512] + published.norms(size)
  )
  assert published.percent_per_task(size, count, 8) == percent


@pytest.mark.parametrize(
  ('size', 'count'), [('small', 4_730_816), ('base', 10_289_376)]
)
def test_the_released_one_has_its_count(size, count):
  layers = published.SIZES[size][1]
  stack = 2 * generators(size) + layers * 64 + MLP[128] + NORM
  assert published.trained(size, 'hyperformer_released', num_tasks=8) == count
  assert count == 2 * stack + TABLE + published.norms(size)


def test_one_more_task_adds_one_vector():
  counts = [
    published.trained('base', 'hyperformer_pp', num_tasks=n) for n in (8, 9)
  ]
  assert counts[1] - counts[0] == 64


NO_SEGMENTS = types.Segments(None, None, None)  # the method needs none


def inputs(task_ids, task_vectors):
  ids = jnp.asarray(task_ids, jnp.int32)
  return extension.ConditionInputs(ids, NO_SEGMENTS, task_vectors)


@pytest.mark.parametrize('variant', ['plus_plus', 'released'])
def test_generated_weights_start_with_deviation_8_hundredths(variant):
  """8 x 0.01: LayerNorm makes 64 entries of unit size, kernels have 0.01."""
  method = HyperFormer(variant, reduction_factor=1)
  points = method.extension_points()
  config, rngs = numpy_t5.make(method, '1.0').config, nnx.Rngs(method=3)
  sites = {
    stack: extension.Site(config, stack, TASKS) for stack in ('both', 'encoder')
  }
  vectors = points.task_vectors(sites['both'], rngs=rngs)()
  condition = points.condition(sites['encoder'], rngs=rngs)
  made = condition(inputs(np.arange(TASKS), vectors)).per_layer
  values = np.concatenate([np.ravel(x) for x in jax.tree.leaves(made)])
  assert np.mean(values) == pytest.approx(0, abs=0.02)
  assert np.std(values) == pytest.approx(0.08, rel=0.05)
  scale = np.ravel(made['attention'].norm_scale)
  assert np.sqrt(np.mean(scale**2)) == pytest.approx(0.08, rel=0.3)


@pytest.mark.parametrize('variant', ['plus_plus', 'per_position', 'released'])
def test_fewer_rows_than_tasks_generate_the_same_adapters(x64, variant):
  model, params = build(variant)
  few, many = np.array([3, 0, 3, 1]), np.array([3, 0, 3, 1, 4])
  module = model.bind(jax.tree.map(jnp.asarray, params))
  own, looked_up = (
    next(
      iter(
        module.decoder.condition(inputs(ids, module.task_vectors())).values()
      )
    )
    for ids in (few, many)
  )
  assert own.shared is None
  np.testing.assert_array_equal(looked_up.shared, many)
  for actual, table in zip(
    jax.tree.leaves(own.per_layer),
    jax.tree.leaves(looked_up.per_layer),
    strict=True,
  ):
    assert actual.shape[:2] == (2, 4)
    assert table.shape[:2] == (2, TASKS)
    np.testing.assert_allclose(actual, table[:, few], **tolerances.FLOAT64)


def test_decoding_generates_before_the_first_token_and_not_again():
  model, params = build('plus_plus')
  params = jax.tree.map(np.float32, params)
  model = numpy_t5.make(HyperFormer(**SMALL), '1.0', dtype='float32')
  tokens = np.arange(2, 2 + 6 * 4, dtype=np.int32).reshape(6, 4)
  jaxpr = jax.make_jaxpr(
    lambda *arguments: decoding.greedy_decode(
      model, *arguments, max_decode_length=3
    )
  )(params, tokens, np.arange(6, dtype=np.int32) % TASKS)
  hidden = SMALL['hidden_dim']
  found = [
    inside
    for equation, inside in jaxprs.equations(jaxpr.jaxpr)
    if equation.primitive.name == 'dot_general'
    and hidden in equation.outvars[0].aval.shape
  ]
  # The MLP of I runs for two block types in each stack, outside all loops.
  assert len(found) == 4
  assert not any('while' in inside or 'scan' in inside for inside in found)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'variant': 'plusplus'}, "variant: got 'plusplus'.*mean 'plus_plus'"),
    ({'embed_dim': 0}, 'embed_dim: got 0, expected at least 1'),
    ({'hidden_dim': 0}, 'hidden_dim: got 0'),
    ({'seed_dim': -1}, 'seed_dim: got -1'),
  ],
)
def test_what_cannot_be_is_refused(unchecked, options, message):
  with pytest.raises(errors.UserError, match=rf'HyperFormer\.{message}'):
    HyperFormer(**options)


def test_a_bottleneck_of_nothing_is_refused():
  with pytest.raises(
    errors.UserError, match=r'HyperFormer.reduction_factor = 13.*\[1, 12\]'
  ):
    numpy_t5.make(HyperFormer(reduction_factor=13), '1.0')

"""Adapters: forward passes in NumPy, published counts, what is refused."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypergrid_jax import errors
from hypergrid_jax.methods import adapter_layer
from hypergrid_jax.methods.adapters import Adapters
from hypergrid_jax.methods.hyperformer import HyperFormer
from hypergrid_jax.model import extension
from hypergrid_jax.testing import batches
from tests import jaxprs
from tests.methods import numpy_t5, published

pytestmark = pytest.mark.usefixtures('compile_quickly')

REDUCTION = 5  # a bottleneck of 12 // 5 = 2


def weights_of(variant, params):
  """(task, stack, layer, position) -> the adapter's weights."""

  def find(task, stack, layer, position):
    found = params[stack]['layers'][f'after_{position}']
    weights = {name: leaf[layer] for name, leaf in found.items()}
    if variant == 'single':
      return weights
    shared = ('norm_scale', 'norm_bias') if variant == 'shared_norm' else ()
    return {
      name: leaf if name in shared else leaf[task]
      for name, leaf in weights.items()
    }

  return find


@pytest.mark.parametrize(
  ('variant', 'version'),
  [('per_task', '1.1'), ('shared_norm', '1.0'), ('single', '1.1')],
)
def test_forward_equals_numpy(x64, variant, version):
  method = Adapters(variant, reduction_factor=REDUCTION)
  model = numpy_t5.make(method, version)
  params = batches.random_params(model.abstract_params, seed=1)
  numpy_t5.assert_forward_equals(model, params, weights_of(variant, params))


@pytest.mark.parametrize(
  ('size', 'count', 'percent'),
  [('small', 446_848, 0.74), ('base', 1_928_832, 0.87)],
)
def test_single_task_adapters_have_the_published_count(size, count, percent):
  places = 2 * 2 * published.SIZES[size][1]
  assert published.trained(size, 'adapters_single', num_tasks=1) == count
  assert count == places * sum(published.adapter(size)) + published.norms(size)
  assert published.percent_per_task(size, count, 1) == percent


@pytest.mark.parametrize(
  ('size', 'count', 'percent'),
  [('small', 3_288_064, 0.68), ('base', 14_581_248, 0.82)],
)
def test_adapters_with_a_dagger_have_the_published_count(size, count, percent):
  places = 2 * 2 * published.SIZES[size][1]
  projections, norm = published.adapter(size)
  assert published.trained(size, 'adapters_dagger', num_tasks=8) == count
  assert count == places * (8 * projections + norm) + published.norms(size)
  assert published.percent_per_task(size, count, 8) == percent


def test_adapters_per_task_are_eight_single_ones_with_common_norms():
  single = published.trained('base', 'adapters_single', num_tasks=1)
  norms = published.norms('base')
  assert published.trained('base', 'adapters', num_tasks=8) == (
    8 * (single - norms) + norms
  )


def test_initial_values():
  points = Adapters(reduction_factor=2).extension_points()
  config = numpy_t5.make(Adapters(reduction_factor=2), '1.0').config
  site = extension.Site(config, 'encoder', num_tasks=50)
  adapter = nnx.to_pure_dict(
    nnx.state(points.after_attention(site, rngs=nnx.Rngs(method=0)))
  )
  for name, (mean, deviation) in {
    'down': (0, 0.01),
    'up': (0, 0.01),
    'down_bias': (0, 0),
    'up_bias': (0, 0),
    'norm_scale': (1, 0),
    'norm_bias': (0, 0),
  }.items():
    assert np.mean(adapter[name]) == pytest.approx(mean, abs=1e-3), name
    assert np.std(adapter[name]) == pytest.approx(deviation, rel=0.1), name


def test_bfloat16_is_for_the_matmuls_inputs_and_the_skip_alone():
  y = jnp.ones((3, 5, 8), jnp.bfloat16)
  shapes = {'down': (8, 2), 'down_bias': (2,), 'up': (2, 8), 'up_bias': (8,)}
  shapes |= {'norm_scale': (8,), 'norm_bias': (8,)}
  weights = adapter_layer.AdapterWeights(
    **{name: jnp.ones((3, *shape)) for name, shape in shapes.items()}
  )
  jaxpr = jax.make_jaxpr(adapter_layer.apply_adapter)(y, weights).jaxpr
  assert jaxpr.outvars[0].aval.dtype == jnp.bfloat16
  narrow = []
  for equation, _ in jaxprs.equations(jaxpr):
    name = equation.primitive.name
    if name == 'dot_general':
      assert {v.aval.dtype for v in equation.invars} == {jnp.dtype('bfloat16')}
    if equation.outvars[0].aval.dtype == jnp.bfloat16:
      narrow.append(name)
  # The inputs of two matmuls, y being narrow already; LN's output; the sum.
  assert sorted(narrow) == sorted(['convert_element_type'] * 4 + ['add'])


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (
      lambda: Adapters(variant='pertask'),
      r"Adapters.variant: got 'pertask'.*Did you mean 'per_task'",
    ),
    (
      lambda: numpy_t5.make(Adapters(), '1.0'),
      r'Adapters.reduction_factor = 32, but must be in \[1, 12\]',
    ),
    (
      lambda: numpy_t5.make(Adapters(reduction_factor=0), '1.0'),
      'Adapters.reduction_factor = 0',
    ),
    (
      lambda: extension.of_methods((Adapters(), HyperFormer())),
      "'Adapters' and 'HyperFormer' both .*'after_attention'",
    ),
  ],
)
def test_what_cannot_be_is_refused(unchecked, make, message):
  with pytest.raises(errors.UserError, match=message):
    make()

"""Methods used together: each sees its own conditioning; clashes."""

import re

import jax
import numpy as np
import pytest

from hypergrid_jax import errors, trees
from hypergrid_jax.methods.ca_mtl import CAMTL
from hypergrid_jax.methods.hypergrid import HyperGrid
from hypergrid_jax.model import architecture, extension, t5
from hypergrid_jax.testing import batches
from tests import tolerances

pytestmark = pytest.mark.usefixtures('compile_quickly')

CONFIG = t5.T5Config(
  d_model=12,
  d_ff=20,
  num_heads=2,
  d_kv=5,
  num_layers=3,
  num_decoder_layers=2,
  vocab_size=34,
  dtype='float64',
)
# Both have a condition in both stacks, with task vectors of their own.
HYPERGRID = HyperGrid(state='task', grid_rows=4, grid_cols=3)
CA_MTL = CAMTL(
  attention='shared_block', window=2, bottleneck='ladder', decoder_norm=True
)


def make(*methods):
  return architecture.Model(
    CONFIG, extension.of_methods(methods), num_tasks=batches.NUM_TASKS
  )


def forward(*methods):
  model = make(*methods)
  return jax.jit(lambda params, batch: model.bind(params)(batch))


@pytest.mark.parametrize('methods', [(HYPERGRID, CA_MTL), (CA_MTL, HYPERGRID)])
def test_beside_a_method_that_does_nothing_the_first_is_as_it_is_alone(
  x64, methods
):
  """With parameters of zero both methods leave T5 as it is."""
  acting = methods[0]
  params = batches.random_params(make(acting).abstract_params)
  together = trees.map_with_path(
    lambda path, leaf: trees.flatten(params).get(path, np.zeros(leaf.shape)),
    make(*methods).abstract_params,
  )
  batch = batches.batch(batches.rows(vocab_size=CONFIG.vocab_size))
  np.testing.assert_allclose(
    forward(*methods)(together, batch),
    forward(acting)(params, batch),
    **tolerances.FLOAT64,
  )


def test_parameters_keep_their_names_shapes_and_axes():
  both, alone = make(HYPERGRID, CA_MTL), [make(HYPERGRID), make(CA_MTL)]
  assert both.added == alone[0].added | alone[1].added
  for model in alone:
    for field, is_leaf in (
      ('abstract_params', None),
      ('logical_axes', trees.is_axes),
    ):
      together, own = (
        trees.flatten(getattr(m, field), is_leaf=is_leaf) for m in (both, model)
      )
      assert {path: together[path] for path in own} == own


def test_no_method_is_plain_t5_and_one_is_itself():
  assert extension.of_methods(None) == extension.ExtensionPoints()
  points = CA_MTL.extension_points()
  combined = extension.of_methods((CA_MTL,))
  assert combined.conditions == {'CAMTL': points.condition}
  for point in set(extension.POINTS) - {'condition'}:
    assert getattr(combined, point) == getattr(points, point), point


def test_two_methods_at_one_point_are_refused_by_name():
  class Other:
    def extension_points(self):
      return extension.ExtensionPoints(norm=lambda site, *, rngs: None)

  with pytest.raises(
    errors.UserError, match="'CAMTL' and 'Other' both replace .*'norm'"
  ):
    extension.of_methods((HYPERGRID, CA_MTL, Other()))


def test_one_method_twice_is_refused():
  with pytest.raises(errors.UserError, match="'HyperGrid' is there twice"):
    extension.of_methods((HYPERGRID, CA_MTL, HyperGrid()))


def test_parameters_of_the_same_name_are_refused():
  norms = CAMTL(alignment=False, attention=None, bottleneck=None)
  alignment = CAMTL(attention=None, norm=False, bottleneck=None)
  points = extension.combine(
    norms=norms.extension_points(), alignment=alignment.extension_points()
  )
  message = re.escape(
    "'alignment' and 'norms' both have parameters named"
    ' encoder/condition/task_vectors'
  )
  with pytest.raises(errors.UserError, match=message):
    architecture.Model(CONFIG, points)


@pytest.mark.parametrize(
  ('limits', 'limit'),
  [((), None), ((None, None), None), ((None, 9), 9), ((9, 7, None), 7)],
)
def test_the_lowest_limit_of_positions_counts(limits, limit):
  methods = {
    f'method {n}': extension.ExtensionPoints(max_positions=one)
    for n, one in enumerate(limits)
  }
  assert extension.combine(**methods).max_positions == limit

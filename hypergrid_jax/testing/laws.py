"""What T5 keeps whatever method is built into it, as tests in float64.

A method that passes these can be packed, scanned, rematerialised, sharded,
decoded with a cache, started from a plain T5 and frozen like the library's own.
"""

from collections.abc import Mapping
import dataclasses
import functools
import re
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypergrid_jax import trees, types
from hypergrid_jax.model import Model, decoding, extension, losses
from hypergrid_jax.model.config import T5Config
from hypergrid_jax.parallel import partitioning
from hypergrid_jax.testing import batches
from hypergrid_jax.training import freezing, optimizers

CLOSE = 1e-12
# All dimensions differ, so that exchanged axes cannot pass.
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


def method_laws(
  method: Any,
  *,
  sizes: Mapping[str, Any] | None = None,
  sees_task_ids: bool = True,
  starts_plain: bool = True,
  silenced: str = '',
  settings: Mapping[str, Any] | None = None,
) -> type['MethodLaws']:
  """Returns a class of tests for pytest; assign it to a name like TestMine.

  Args:
    method: a method's configuration, a tuple of several, or None for plain T5.
    sizes: fields of `T5Config` in place of those in `SIZES`.
    sees_task_ids: whether the model depends on task ids; a method that reads
      hidden states alone does not.
    starts_plain: whether the fresh model computes what a plain T5 does.
    silenced: a regular expression over the paths of parameters that must be
      zero for the fresh model to be a plain T5; empty where it starts as one.
    settings: fields of `T5Config` under which results must be the same, such
      as another `remat_policy`; None takes an unrolled stack that recomputes
      all.
  """
  if settings is None:
    settings = {'scan_layers': False, 'remat_policy': 'full'}
  members = {
    'method': method,
    'sizes': {**SIZES, **(sizes or {})},
    'sees_task_ids': sees_task_ids,
    'starts_plain': starts_plain,
    'silenced': silenced,
    'settings': dict(settings),
    # So that a failure names the method.
    '__doc__': f'The laws of {method!r}.',
  }
  return type('MethodLaws', (MethodLaws,), members)


class MethodLaws:
  """The laws; see `method_laws` for the attributes."""

  method: ClassVar[Any] = None
  sizes: ClassVar[dict[str, Any]] = SIZES
  sees_task_ids: ClassVar[bool] = True
  starts_plain: ClassVar[bool] = True
  silenced: ClassVar[str] = ''
  settings: ClassVar[dict[str, Any]] = {}

  @pytest.fixture(autouse=True)
  def _float64(self):
    with jax.enable_x64(True):
      yield

  def test_plain_parameters_are_a_subset_and_start_alike(self):
    """Plain T5's parameters keep their paths, axes and initial values."""
    model, plain = self._model(), self._model(plain=True)
    leaves, plain_leaves = (
      trees.flatten(self._initial(plain=p)) for p in (False, True)
    )
    assert leaves.keys() - plain_leaves.keys() == model.added
    for path, leaf in plain_leaves.items():
      np.testing.assert_array_equal(leaves[path], leaf, err_msg=path)
    axes = trees.flatten(model.logical_axes, is_leaf=trees.is_axes)
    plain_axes = trees.flatten(plain.logical_axes, is_leaf=trees.is_axes)
    assert {path: axes[path] for path in plain_axes} == plain_axes

  def test_starts_as_plain_t5(self):
    """The fresh model computes what a plain T5 computes."""
    if not self.starts_plain:
      pytest.skip('the method does not start as a plain T5')
    start = trees.flatten(self._initial())
    plain = trees.flatten(self._initial(plain=True))
    for path, leaf in start.items():
      if re.fullmatch(self.silenced, path):
        start[path] = np.zeros_like(leaf)
    batch = batches.batch(self._examples())
    actual = self._step()(self._doubled(start), batch)
    desired = self._step(plain=True)(self._doubled(plain), batch)
    for name in ('logits', 'loss'):
      assert_trees_close({name: actual[name]}, {name: desired[name]})

  def test_packed_rows_equal_rows_of_one_example(self):
    """Packing changes neither logits nor loss nor gradients."""
    packed = self._examples()
    together = self._step()(self._params(), batches.batch(packed))
    logits = together.pop('logits')
    singles = batches.alone(packed)
    count, single_logits, summed = len(packed), [], None
    for first in range(0, len(singles), count):
      rows = singles[first : first + count]
      chunk = self._step()(self._params(), batches.batch(rows, num_rows=count))
      single_logits.extend(np.asarray(chunk.pop('logits')))
      summed = chunk if summed is None else jax.tree.map(jnp.add, summed, chunk)
    assert_packed_equal(packed, logits, single_logits)
    assert_trees_close(together, summed)

  def test_logits_depend_on_their_own_example_and_nothing_later(self):
    """Changes every token in turn and looks at which logits moved."""
    batch = batches.batch(self._examples())
    run = functools.partial(self._step(), self._params())
    base = run(batch)['logits']
    for field, ids in (
      ('encoder_input_tokens', batch.encoder_segment_ids),
      ('decoder_input_tokens', batch.decoder_segment_ids),
    ):
      for b, position in np.ndindex(ids.shape):
        tokens = getattr(batch, field).copy()
        tokens[b, position] += 7
        tokens[b, position] %= self.sizes['vocab_size']
        other = run(dataclasses.replace(batch, **{field: tokens}))
        expected = np.zeros(batch.decoder_segment_ids.shape, bool)
        expected[b] = batch.decoder_segment_ids[b] == ids[b, position]
        if field.startswith('decoder'):
          expected[b, :position] = False
        real = batch.decoder_segment_ids > 0
        expected = (expected & real)[real]
        moved = np.asarray(other['logits'] - base)[real]
        assert (np.abs(moved).max(axis=-1) > 1e-9).tolist() == (
          expected.tolist()
        ), (field, b, position)
        np.testing.assert_array_equal(moved[~expected], 0)

  def test_a_row_depends_on_its_own_task_id_if_on_any(self):
    """Another row's task changes nothing."""
    batch = batches.batch(self._examples())
    run = functools.partial(self._step(), self._params())
    tasks = batch.task_ids.copy()
    tasks[2] = 4  # row 0 keeps task 3, which row 2 had too
    other = run(dataclasses.replace(batch, task_ids=tasks))
    moved = other['logits'] - run(batch)['logits']
    expected = [False] * len(tasks)
    expected[2] = self.sees_task_ids
    assert np.any(moved, axis=(1, 2)).tolist() == expected

  def test_every_layer_and_task_of_every_parameter_has_a_gradient(self):
    """No parameter is left over."""
    batch = batches.batch(self._examples())
    outputs = self._step()(self._params(), batch)
    model = self._model()
    axes = trees.flatten(model.logical_axes, is_leaf=trees.is_axes)
    for path, leaf in trees.flatten(outputs['gradients']).items():
      separate = [axis in ('layers', 'tasks') for axis in axes[path]]
      moved = np.any(leaf, axis=tuple(np.flatnonzero(np.invert(separate))))
      expected = np.ones_like(moved)
      if 'tasks' in axes[path]:  # those of the tasks in the batch
        present = np.isin(np.arange(batches.NUM_TASKS), batch.task_ids)
        expected = np.broadcast_to(present, moved.shape)
      np.testing.assert_array_equal(moved, expected, err_msg=path)

  def test_two_steps_later_everything_that_is_added_has_a_gradient(self):
    """What starts at zero does not stay there."""
    params = self._doubled(trees.flatten(self._initial()))
    batch = batches.batch(self._examples())
    for _ in range(2):
      gradients = self._step()(params, batch)['gradients']
      params = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients)
    gradients = trees.flatten(self._step()(params, batch)['gradients'])
    for path in self._model().added:
      assert np.any(gradients[path]), path

  def test_scan_and_remat_change_nothing(self):
    """Scanned or unrolled, kept or computed again: the same numbers."""
    batch = batches.batch(self._examples())
    actual = self._step(**self.settings)(self._params(), batch)
    assert_trees_close(actual, self._step()(self._params(), batch))

  def test_cached_steps_equal_packed_teacher_forcing(self):
    """Decoding step by step gives the logits of training."""
    packed = self._examples()
    singles = batches.batch(batches.alone(packed), num_segments=1)
    decoded = jax.jit(functools.partial(_decoded, self._model()))
    logits = self._step()(self._params(), batches.batch(packed))['logits']
    assert_packed_equal(
      packed, logits, np.asarray(decoded(self._params(), singles))
    )

  def test_a_mesh_of_4_by_2_devices_equals_one(self):
    """Data and model parallelism change nothing."""
    if len(jax.devices()) < 8:
      pytest.skip('needs 8 devices, such as jax_num_cpu_devices = 8')
    model, batch = self._model(), batches.batch(self._examples())
    mesh = partitioning.make_mesh(partitioning.MeshConfig(data=4, model=2))
    params = jax.device_put(
      self._params(),
      partitioning.param_shardings(
        model.logical_axes, model.abstract_params, mesh
      ),
    )
    rows = jax.device_put(batch, partitioning.batch_sharding(mesh))
    actual = self._step()(params, rows)
    assert_trees_close(actual, self._step()(self._params(), batch))

  def test_every_axis_has_a_partitioning_rule(self):
    """Every dimension names an axis that a mesh rule knows."""
    model = self._model()
    axes = trees.flatten(model.logical_axes, is_leaf=trees.is_axes)
    shapes = trees.flatten(model.abstract_params)
    for path, names in axes.items():
      assert set(names) <= partitioning.DEFAULT_RULES.keys(), path
      assert len(names) == len(shapes[path].shape), path

  def test_a_step_moves_what_is_added_and_keeps_the_bits_of_the_rest(self):
    """Freezing is total: frozen parameters keep their bits."""
    model, start = self._model(), self._params()
    if not model.added:
      pytest.skip('a plain T5 adds nothing')
    trained = freezing.trained_parameters(
      model.logical_axes, 'added', added=model.added
    )
    optimizer = optimizers.make_optimizer(
      optimizers.Adafactor(),
      optimizers.Constant(1e-2),
      logical_axes=model.logical_axes,
      added=model.added,
      trained=trained,
    )
    outputs = self._step()(start, batches.batch(self._examples()))
    updates, _ = jax.jit(optimizer.update)(
      outputs['gradients'], optimizer.init(start), start
    )
    after = trees.flatten(jax.tree.map(jnp.add, start, updates))
    for path, before in trees.flatten(start).items():
      moved = bool(np.any(after[path] != before))
      assert moved == (path in model.added), path

  def _examples(self):
    return batches.rows(vocab_size=self.sizes['vocab_size'])

  def _params(self) -> types.Params:
    return batches.random_params(self._model().abstract_params)

  def _model(self, *, plain: bool = False, **settings) -> Model:
    sizes = tuple({**self.sizes, **settings}.items())
    return model_of(None if plain else self.method, sizes)

  def _initial(self, *, plain: bool = False) -> types.Params:
    return initial_params(self._model(plain=plain))

  def _step(self, *, plain: bool = False, **settings):
    return step_of(self._model(plain=plain, **settings))

  def _doubled(self, leaves: Mapping[str, Any]) -> types.Params:
    return trees.unflatten({p: np.float64(leaf) for p, leaf in leaves.items()})


# Compiled once per process, and the plain T5 once for all methods.
@functools.cache
def model_of(method: Any, sizes: tuple[tuple[str, Any], ...]) -> Model:
  """Returns a model of a method; `sizes` are pairs of fields and values."""
  return Model(
    T5Config(**dict(sizes)),
    extension.of_methods(method),
    num_tasks=batches.NUM_TASKS,
  )


@functools.cache
def initial_params(model: Model) -> types.Params:
  """Returns the fresh parameters of a model, always from the same key."""
  key = jax.random.key(0, impl='unsafe_rbg')
  return jax.device_get(jax.jit(model.init)(key))


@functools.cache
def step_of(model: Model):
  """Returns the jitted logits, summed loss and its gradients."""

  def loss(params, batch):
    logits = model.bind(params)(batch)
    nats = losses.token_losses(logits, batch.decoder_target_tokens)
    return jnp.sum(nats * batch.decoder_loss_weights), logits

  @jax.jit
  def run(params, batch):
    gradient = jax.value_and_grad(loss, has_aux=True)
    (value, logits), gradients = gradient(params, batch)
    return {'logits': logits, 'loss': value, 'gradients': gradients}

  return run


def _decoded(model: Model, params: types.Params, batch: types.Batch):
  """Returns the logits of cached steps, each fed the true token."""
  module = model.bind(params)
  tokens = batch.encoder_input_tokens
  segments = decoding.single_segments(tokens)
  encoded = module.encode(tokens, segments, batch.task_ids)
  conditioning = module.decoder_conditioning(
    segments, encoded, segments, batch.task_ids
  )
  inputs = batch.decoder_input_tokens
  cache = module.start_cache(encoded, length=inputs.shape[1])

  def one_position(cache, scanned):
    index, token = scanned
    logits, cache = module.decode_step(
      token[:, None], index, cache, conditioning, segments
    )
    return cache, logits

  positions = (jnp.arange(inputs.shape[1]), inputs.T)
  logits = jax.lax.scan(one_position, cache, positions)[1]
  return logits.transpose(1, 0, 2)


def assert_trees_close(actual: Any, desired: Any, close: float = CLOSE) -> None:
  """Asserts that leaves differ by less than `close` of their largest number.

  Where the largest number is below 1, by less than `close`.
  """
  desired = trees.flatten(desired)
  for path, leaf in trees.flatten(actual).items():
    size = max(1.0, np.abs(desired[path]).max())
    np.testing.assert_allclose(
      leaf, desired[path], rtol=0, atol=close * size, err_msg=path
    )


def assert_packed_equal(packed, logits, single_logits) -> None:
  """Asserts that packed examples have the logits that they have alone.

  Args:
    packed: rows of examples, as from `batches.rows`.
    logits: of the packed rows, [B, L, V].
    single_logits: of every example in a row of its own, in order.
  """
  single_logits = iter(single_logits)
  for b, row in enumerate(packed):
    for s, _, span in batches.spans(row):
      np.testing.assert_allclose(
        np.asarray(logits)[b, span],
        next(single_logits)[: span.stop - span.start],
        rtol=0,
        atol=10 * CLOSE,
        err_msg=f'row {b}, segment {s + 1}',
      )

"""Tasks come and go; what stays keeps its bits."""

import dataclasses
import pathlib

import numpy as np
import pytest

import hypergrid_jax
from hypergrid_jax import trees
from hypergrid_jax.cli import main
from hypergrid_jax.config import run_config
from hypergrid_jax.errors import UserError
from hypergrid_jax.interop import editing, exporting, importing, trained
from hypergrid_jax.methods.adapters import Adapters
from hypergrid_jax.methods.ca_mtl import CAMTL
from hypergrid_jax.methods.hyperformer import HyperFormer
from hypergrid_jax.methods.hypergrid import HyperGrid
from hypergrid_jax.model import Model
from hypergrid_jax.model.config import T5Config
from hypergrid_jax.tasks import definitions
from tests import refusals
from tests.interop import runs
from tests.tasks import tiny_rows

pytestmark = pytest.mark.usefixtures('compile_quickly')

SIZES = {**runs.SIZES, 'num_layers': 2, 'num_decoder_layers': 1}
CONFIG = T5Config(**SIZES, vocab_size=50, dtype='float32')
METHODS = {
  'gates': HyperGrid(grid_rows=4, grid_cols=3, state='task'),
  'adapters': Adapters(reduction_factor=4),
  'generated': HyperFormer(reduction_factor=4),
  'seeds': HyperFormer(variant='per_position', reduction_factor=4),
  'conditional': CAMTL(window=5, max_length=40),
}
SMALLER = ('T5Config.num_layers=1', 'T5Config.num_decoder_layers=1')
OLD = {'a': 0, 'b': 1, 'c': 2}
NEW = {'c': 0, 'x': 1, 'a': 2, 'y': 3, 'z': 4}


def build(method, tasks):
  return Model(CONFIG, method.extension_points(), num_tasks=len(tasks))


def task_axes(model):
  axes = trees.flatten(model.logical_axes, is_leaf=trees.is_axes)
  return {path: a.index('tasks') for path, a in axes.items() if 'tasks' in a}


@pytest.mark.parametrize('name', ['gates', 'adapters'])  # axes 0 and 1
def test_every_task_takes_its_parameters_along(name):
  old, new = build(METHODS[name], OLD), build(METHODS[name], NEW)
  params = runs.noisy(old)
  origins = editing.sources(OLD, NEW, like=None)
  assert origins == [2, None, 0, None, None]
  moved = editing.moved(params, new, origins, seed=4)
  shapes = trees.flatten(new.abstract_params)
  drawn = {p: v.load() for p, v in importing.drawn(new, 4).items()}
  axes = task_axes(new)
  assert axes
  assert set(moved) == set(shapes)
  for path, value in moved.items():
    assert value.shape == shapes[path].shape
    if path not in axes:
      np.testing.assert_array_equal(value, params[path], err_msg=path)
      continue
    for number, origin in enumerate(origins):
      source = drawn[path] if origin is None else params[path]
      np.testing.assert_array_equal(
        value.take(number, axes[path]),
        source.take(number if origin is None else origin, axes[path]),
        err_msg=path,
      )


@pytest.fixture
def users_compiler(monkeypatch):
  """Generates code as for users: rounding is not to depend on the tasks."""
  jitted = exporting._program

  def program(model):
    def run(params, batch):
      lowered = jitted(model).lower(params, batch)
      options = {'xla_cpu_use_fusion_emitters': True}
      return lowered.compile(options)(params, batch)

    return run

  monkeypatch.setattr(exporting, '_program', program)


# With all methods it takes more than ten seconds.
REST = [pytest.param(n, marks=pytest.mark.slow) for n in ('adapters', 'seeds')]


@pytest.mark.parametrize('name', ['gates', 'generated', 'conditional', *REST])
def test_old_tasks_keep_every_bit_of_their_outputs(name, users_compiler):
  old, new = build(METHODS[name], OLD), build(METHODS[name], NEW)
  params = runs.noisy(old)
  moved = editing.moved(
    params, new, editing.sources(OLD, NEW, like='b'), seed=0
  )
  values = [
    exporting.logits(
      model,
      trees.unflatten(leaves),
      dataclasses.replace(
        exporting.sample_rows(CONFIG.vocab_size, 0),
        task_ids=np.array([ids[task] for task in tasks], np.int32),
      ),
    )
    for model, leaves, ids, tasks in (
      (old, params, OLD, ('a', 'c', 'b', 'a')),
      (new, moved, NEW, ('a', 'c', 'y', 'a')),
    )
  ]
  np.testing.assert_array_equal(*values)


def test_a_new_task_may_start_like_another():
  assert editing.sources(OLD, NEW, like='b') == [2, 1, 0, 1, 1]
  with pytest.raises(UserError, match="no task 'bb' .*Did you mean 'b'"):
    editing.sources(OLD, NEW, like='bb')


@pytest.mark.parametrize(
  ('change', 'mixture'),
  [
    ({'add': ('x', 'y')}, ('a', 'b', 'c', 'x', 'y')),
    ({'remove': ('b',)}, ('a', 'c')),
    ({'remove': ('a', 'c'), 'add': ('x',)}, ('b', 'x')),
    ({'average': (1, 2)}, 'mixture'),
  ],
)
def test_the_mixture_is_rewritten(change, mixture):
  found = editing.changed_mixture(tuple(OLD), 'mixture', editing.Edit(**change))
  assert found == mixture


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    ({'add': ('b',)}, "has the task 'b' already"),
    ({'remove': ('cc',)}, "no task 'cc' to remove. Did you mean 'c'"),
    ({'remove': tuple(OLD)}, 'No task would be left'),
  ],
)
def test_changes_that_cannot_be(change, said):
  with pytest.raises(UserError, match=said):
    editing.changed_mixture(tuple(OLD), 'mixture', editing.Edit(**change))


class TestAverage:
  @pytest.fixture
  def run(self, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs.write('run', steps=(5, 6, 9))
    return run_config.parse(['run/config.gin'])

  def averaged(self, run, *steps, step='best'):
    reader = trained.reader_lib.CheckpointReader('run')
    model = trained.run_files.model_of(run)
    change = editing.Edit(average=steps, step=step)
    return editing.averaged(reader, model, change)

  def test_it_is_the_mean(self, run):
    model = trained.run_files.model_of(run)
    three = [runs.noisy(model, seed=step) for step in (5, 6, 9)]
    found = self.averaged(run, 5, 6, 9)
    for path, value in found.items():
      # Summed the other way round, to float32 as late.
      total = sum(p[path].astype(np.float64) for p in reversed(three)) / 3
      np.testing.assert_allclose(value, total, rtol=1e-7, err_msg=path)
      assert value.dtype == np.float32

  def test_the_mean_of_equals_is_the_same_bits(self, run):
    once, thrice = self.averaged(run, 6), self.averaged(run, 6, 6, 6)
    best = self.averaged(run)
    last = self.averaged(run, step=9)
    for path, value in once.items():
      np.testing.assert_array_equal(thrice[path], value, err_msg=path)
      np.testing.assert_array_equal(best[path], last[path], err_msg=path)

  def test_a_step_that_is_not_there(self, run):
    with pytest.raises(UserError, match='no checkpoint of step 7'):
      self.averaged(run, 5, 7)


@pytest.fixture
def run_dir(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for name in (*runs.TASKS, 'glue_mrpc'):
    tiny_rows.write_jsonl(tmp_path, definitions.definition(name))
  source = f'data.source=files:{tmp_path}'
  runs.write('run', METHODS['gates'], gin=[source, *SMALLER])
  return 'run'


@pytest.mark.slow  # loads TensorFlow and compiles two models for decoding
def test_a_task_is_added_and_the_run_predicts_the_same(run_dir):
  arguments = ['edit', '--model_dir=run', '--to=more', '--like=glue_rte']
  assert main.main([*arguments, '--add_tasks=glue_mrpc']) == 0
  names = {path.name for path in pathlib.Path('more').iterdir()}
  assert names == {'checkpoints', 'config.gin', 'run.json', 'tokens'}
  run = run_config.parse(['more/config.gin'])
  assert run.data.mixture == (*runs.TASKS, 'glue_mrpc')
  old, new = (hypergrid_jax.load(name) for name in ('run', 'more'))
  rows = [
    {'task': 'glue_rte', 'inputs': 'rte sentence1: A. sentence2: B.'},
    {'task': 'glue_cola', 'inputs': 'cola sentence: A dog.'},
    {'task': 'super_glue_boolq', 'inputs': 'boolq passage: c question: d'},
  ]
  expected = old.predict(rows)
  assert new.predict(rows) == expected
  like = [{**rows[0], 'task': 'glue_mrpc'}]
  assert new.predict(like)[0]['prediction'] == expected[0]['prediction']
  # A prepared run is evaluated as any other.
  flags = ['--tasks=glue_mrpc', '--limit=2', 'evaluate.length_buckets=(64,)']
  assert main.main(['eval', '--model_dir=more', *flags]) == 0


@pytest.mark.parametrize(
  ('flags', 'said'),
  [
    ([], 'Nothing to change'),
    (['--add_tasks=glue_mrcp'], "Did you mean 'glue_mrpc'"),
    (['--average=7,8'], 'no checkpoint of step 8'),
    (['--drop_optimizer', '--to=run'], 'run is there already'),
  ],
)
def test_flags_that_do_not_fit(flags, said, run_dir, capsys):
  arguments = ['edit', '--model_dir=run', '--to=more', *flags]
  assert said in refusals.refusal(capsys, arguments)

"""Which runs a comparison has: methods, seeds, tasks, and where they lie."""

import dataclasses
import pathlib

import pytest

from hypergrid_jax.comparing import plan
from hypergrid_jax.config import run_config
from hypergrid_jax.errors import UserError

QUICKSTART = 'gin/runs/quickstart.gin'
TASKS = ('glue_cola', 'glue_mnli', 'super_glue_cb')


def make(methods, *bindings, gin_files=(QUICKSTART,), **options):
  defaults = {
    'directory': 'there',
    'seeds': (4, 7),
    'single_task_seeds': None,
  }
  return plan.make(methods, gin_files, bindings, {}, **{**defaults, **options})


def test_methods_differ_in_what_their_files_say():
  planned = make(['plain', 'hypergrid_lg', 'hyperformer_pp'])
  plain, grid, generated = planned.methods.values()
  assert list(planned.methods) == ['plain', 'hypergrid_lg', 'hyperformer_pp']
  assert plain.method is None
  assert grid.method.variant == 'LG'
  assert dataclasses.replace(grid, method=None) == plain
  assert generated.train.trainable == 'added_and_norms'
  assert plain.train.trainable == 'all'
  assert plain.data == generated.data
  assert plain.train.seed == generated.train.seed == 4


def test_a_path_names_a_method_after_its_file(tmp_path):
  path = tmp_path / 'narrow.gin'
  path.write_text(
    "include 'gin/methods/hypergrid.gin'\nHyperGrid.grid_rows = 2\n"
  )
  planned = make([str(path), 'hypergrid'])
  assert {
    name: run.method.grid_rows for name, run in planned.methods.items()
  } == {
    'narrow': 2,
    'hypergrid': 8,
  }


def test_two_methods_in_one_run():
  planned = make(['hypergrid+ca_mtl_base'], 'CAMTL.window=3')
  ((name, run),) = planned.methods.items()
  assert name == 'hypergrid+ca_mtl_base'
  assert [type(one).__name__ for one in run.method] == [
    'HyperGrid',
    'CAMTL',
  ]
  assert run.method[1].window == 3


@pytest.mark.parametrize('spec', ['hypergrid+hypergrid_lg', 'plain+hypergrid'])
def test_methods_that_do_not_go_together(spec):
  with pytest.raises(UserError, match='different methods'):
    make([spec])


def test_an_unknown_method_is_told_with_the_nearest():
  with pytest.raises(UserError, match="'hyperformer_p'.*'hyperformer_pp'"):
    make(['plain', 'hyperformer_p'])
  with pytest.raises(UserError, match="'single_task'"):
    make(['singletask'])


def test_one_name_for_two_methods_is_refused(tmp_path):
  path = tmp_path / 'plain.gin'
  path.write_text('run.method = None\n')
  with pytest.raises(UserError, match="two methods are called 'plain'"):
    make(['plain', str(path)])


@pytest.mark.parametrize(
  ('binding', 'flag'),
  [('run.method=None', '--methods'), ('train.seed=3', '--seeds')],
)
def test_what_tells_runs_apart_is_not_set_for_all(binding, flag):
  with pytest.raises(UserError, match=f'^{binding}: .* by {flag}'):
    make(['plain'], binding)


def test_a_binding_reaches_the_methods_that_have_it():
  planned = make(
    ['plain', 'hypergrid', 'adapters'],
    'HyperGrid.grid_cols=4',
    'train.num_steps=5',
  )
  assert planned.methods['hypergrid'].method.grid_cols == 4
  assert planned.methods['adapters'].method.reduction_factor == 32
  assert {run.train.num_steps for run in planned.methods.values()} == {5}


def test_a_binding_that_reaches_none_is_refused():
  with pytest.raises(
    UserError, match=r'^CAMTL\.window=3: CAMTL is no component'
  ):
    make(['plain', 'hypergrid'], 'CAMTL.window=3')
  with pytest.raises(UserError, match='grid_colz'):
    make(['plain', 'hypergrid'], 'HyperGrid.grid_colz=3')


def test_runs_go_seed_by_seed_into_their_directories():
  planned = make(['single_task', 'plain'], single_task_seeds=(7,))
  runs = planned.runs(TASKS)
  here = pathlib.Path('there')
  assert [(run.directory, run.seed, run.task) for run in runs] == [
    (here / 'plain' / 'seed4', 4, ''),
    *((here / 'single_task' / 'seed7' / task, 7, task) for task in TASKS),
    (here / 'plain' / 'seed7', 7, ''),
  ]
  assert [run.run.train.seed for run in runs] == [4, 7, 7, 7, 7]
  # Of one method the seed is all that differs, and all share their tokens.
  assert plan.with_seed(runs[0].run, 7) == runs[-1].run
  assert {run.run.data.token_dir for run in runs} == {'there/tokens'}
  assert runs[2].title == 'single_task, glue_mnli, seed 7'


def test_single_task_models_have_the_first_seed_unless_told():
  planned = make(['single_task', 'plain'])
  assert planned.seeds_of('single_task') == (4,)
  assert planned.seeds_of('plain') == (4, 7)


def test_a_token_store_that_was_named_stays():
  planned = make(['plain'], 'data.token_dir=mine')
  assert planned.plain.data.token_dir == 'mine'


class TestOfOneTask:
  def run(self, *bindings):
    return run_config.parse(
      [QUICKSTART, 'gin/methods/plain.gin'], list(bindings)
    )

  def test_a_task_alone(self):
    run = self.run("data.weights={'glue_cola': 1.0, 'glue_rte': 2.0}")
    one = plan.of_one_task(run, 'glue_rte')
    assert one.data.mixture == 'glue_rte'
    assert one.data.weights is None  # they name tasks that it lacks
    same = dataclasses.replace(
      one.data, mixture=run.data.mixture, weights=run.data.weights
    )
    assert dataclasses.replace(one, data=same) == run

  def test_brings_the_validation_sets_that_the_mixture_has(self):
    names = 'glue_mnli', 'glue_mnli_matched', 'glue_mnli_mismatched'
    whole = plan.of_one_task(self.run('data.mixture=glue'), names[0])
    assert whole.data.mixture == names
    some = ('glue_mnli_matched', 'glue_cola', 'glue_mnli')
    part = plan.of_one_task(self.run(f'data.mixture={some}'), names[0])
    assert part.data.mixture == ('glue_mnli_matched', 'glue_mnli')

"""Rows of the papers' tables: each is the run that its head describes."""

import math
import pathlib
import re

import pytest

from hypergrid_jax import trees
from hypergrid_jax.config import run_config
from hypergrid_jax.methods.ca_mtl import CAMTL
from hypergrid_jax.methods.hypergrid import HyperGrid
from hypergrid_jax.model import Model, extension
from hypergrid_jax.runs import datasets
from hypergrid_jax.training import freezing

PAPERS = pathlib.Path(__file__).parents[1] / 'gin' / 'papers'
NAMES = sorted(path.stem for path in PAPERS.glob('*.gin'))
GIVEN = ('train.initial_checkpoint=T5', 'data.source=sample')
VOCAB = {'vocab': 'sample'}
# Karimi Mahabadi et al. 2021, GLUE: what trains, and its share of T5 for each
# task in percent, as published. All of T5 trains in the rows of T5.
COUNTS = {
  'base_t5_multi': (222_903_552, 12.5),
  'base_adapters': (1_928_832, 0.87),
  'base_adapters_dagger': (14_581_248, 0.82),
  'base_hyperformer': (122_404_672, 6.86),
  'base_hyperformer_pp': (5_211_056, 0.29),
  'small_t5_multi': (60_506_624, 12.5),
  'small_adapters': (446_848, 0.74),
  'small_adapters_dagger': (3_288_064, 0.68),
  'small_hyperformer': (28_074_560, 5.80),
  'small_hyperformer_pp': (2_415_776, 0.50),
}


def read(name, *more):
  return run_config.parse([f'gin/papers/{name}.gin'], (*GIVEN, *more), VOCAB)


def trained(run, num_tasks):
  """How many parameters train, with T5's vocabulary."""
  model = Model(
    run.model, extension.of_methods(run.method), num_tasks=num_tasks
  )
  parts = freezing.trained_parameters(
    model.logical_axes, run.train.trainable, added=model.added
  )
  sizes = trees.flatten(model.abstract_params)
  return sum(
    math.prod(freezing.trained_shape(sizes[path].shape, part))
    for path, part in parts.items()
  )


@pytest.mark.parametrize('name', NAMES)
def test_its_head_is_the_command(name):
  lines = (PAPERS / f'{name}.gin').read_text().splitlines()
  verb = 'compare' if name.endswith('single') else 'train'
  assert lines[0].startswith(f'# hypergrid {verb} --gin_file=gin/papers/{name}')
  head = ' '.join(line[2:] for line in lines if line.startswith('#'))
  assert 'cost' in head.lower() or 'FLOPs' in head
  assert re.search(r'[Dd]iffer', head)
  assert re.search(r'arXiv:\d{4}\.\d{5}', head)


@pytest.mark.parametrize('name', NAMES)
def test_it_needs_a_t5_to_start_from(name):
  with pytest.raises(Exception, match='train.initial_checkpoint'):
    run_config.parse([f'gin/papers/{name}.gin'], (), VOCAB)


@pytest.mark.parametrize('name', COUNTS)
def test_what_trains_is_what_was_published(name):
  count, percent = COUNTS[name]
  tasks = 1 if name.endswith('_adapters') else 8
  run = read(f'hyperformer_{name}')
  assert trained(run, tasks) == count
  whole = COUNTS[f'{name.split("_")[0]}_t5_multi'][0]
  assert round(100 * count / whole / tasks, 2) == percent


@pytest.mark.parametrize('name', COUNTS)
def test_the_recipe_of_hyperformer(name):
  run = read(f'hyperformer_{name}')
  assert datasets.task_ids(run.data.mixture).keys() == {
    f'glue_{task}' for task in 'cola sst2 mrpc qqp stsb mnli qnli rte'.split()
  }
  data, train = run.data, run.train
  assert (data.protocol, data.tasks_per_batch) == ('hyperformer', 'one')
  assert (data.batch_size, data.pack, data.temperature) == (128, False, 10.0)
  # Plain T5 has no other way to know the task.
  assert data.task_prefix == (run.method is None)
  assert (train.num_steps, run.schedule.total_steps) == (2**16, 2**16)
  assert (train.label_smoothing, train.loss_normalization) == (0.1, 'sum')
  assert (train.clip_norm, run.schedule.learning_rate) == (1.0, 3e-4)


@pytest.mark.parametrize('size', ['base', 'small'])
def test_single_task_is_the_same_recipe(size):
  single, multi = (
    read(f'hyperformer_{size}_t5_{kind}') for kind in ('single', 'multi')
  )
  assert single == multi


def test_every_row_of_the_ablation_adds_one_thing():
  rows = [
    read(f'ca_mtl_base_{name}')
    for name in ('mtl', 'attention', 'bottleneck', 'norm', 'uncertainty')
  ]
  methods = [row.method for row in rows]
  assert methods[0] is None
  assert all(isinstance(method, CAMTL) for method in methods[1:])
  assert [bool(m and m.alignment and m.attention) for m in methods] == [
    *(False, True, True, True, True)
  ]
  assert [bool(m and m.bottleneck) for m in methods] == [0, 0, 1, 1, 1]
  assert [bool(m and m.norm) for m in methods] == [0, 0, 0, 1, 1]
  assert [row.sampler is not None for row in rows] == [0, 0, 0, 0, 1]
  assert {row.train.trainable for row in rows[1:]} == {'added_and_upper_half'}
  # 5 epochs of 949,101 examples, the sum of the published sizes, 32 a step.
  assert {row.train.num_steps for row in rows} == {-(-5 * 949_101 // 32)}


@pytest.mark.parametrize('variant', ['L', 'L2', 'LG', 'GL'])
def test_hypergrid_differs_from_its_baseline_in_the_method_only(variant):
  run = read(f'hypergrid_base_{variant.lower()}')
  assert isinstance(run.method, HyperGrid)
  assert run.method.variant == variant
  changed = run_config.operative_config(run).split('run.method')[0]
  plain = run_config.operative_config(read('hypergrid_base_t5_multi'))
  assert changed == plain.split('run.method')[0]
  assert run.data == read('hypergrid_base_t5_multi').data
  assert run.train == read('hypergrid_base_t5_multi').train

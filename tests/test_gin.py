"""Every gin file of the project: it parses, and its model can be built."""

import dataclasses
import pathlib
import re

import jax
import pytest

from hypergrid_jax import trees
from hypergrid_jax.config import run_config
from hypergrid_jax.model import Model, extension
from hypergrid_jax.tasks.catalogue import mixtures, protocols

ROOT = pathlib.Path(__file__).parent.parent
GIN = ROOT / 'gin'
RUNS = sorted(path.stem for path in (GIN / 'runs').glob('*.gin'))
# What a part needs beside itself to be a run.
REST = (
  'data.mixture=glue',
  'train.num_steps=1',
  'data.vocabulary=sample',
)
SIZE = 'gin/models/tiny.gin'

# Parameters of the released checkpoints: the files of T5 1.0 have one shared
# embedding; 1.1 has an output of its own.
PARAMETERS = {
  't5_1_0_small': 60_506_624,
  't5_1_0_base': 222_903_552,
  't5_1_0_large': 737_668_096,
  't5_1_0_3b': 2_851_598_336,
  't5_1_0_11b': 11_307_321_344,
  't5_1_1_small': 76_961_152,
  't5_1_1_base': 247_577_856,
  't5_1_1_large': 783_150_080,
  't5_1_1_xl': 2_849_757_184,
  't5_1_1_xxl': 11_135_332_352,
}
# Mixing, temperature and tasks per batch that a sampler sets.
SAMPLERS = {
  'uniform': ('equal', None, 'mixed'),
  'task_size': ('proportional', 1.0, 'mixed'),
  'hyperformer': ('proportional', 10.0, 'one'),
  'uncertainty': (None, None, 'mixed'),
}
LAYERS_OF_BASE = 24
# An adapter with a bottleneck of 768 // 32 = 24: two projections with biases,
# and a LayerNorm. There are two in every layer. Generators need 64 weights and
# a bias for each of its numbers, and an MLP makes the 64 of more.
ADAPTER = 2 * 768 * 24 + 24 + 768 + 2 * 768
GENERATORS = (64 + 1) * ADAPTER
MLP_TO_64 = {n: (n + 1) * 128 + (128 + 1) * 64 for n in (128, 192, 512)}
# A map between two vectors of base's width, with a bias.
MAP = 768 * 768 + 768
# CA-MTL at base: a task vector and its projection, the alignment's two maps,
# and attention in 12 layers; a bottleneck; two norms of six layers.
CA_MTL_ATTENTION = 3 * MAP + 768 + 12 * (512 * 22 + 2 * (768 * 22 + 22))
CA_MTL_BOTTLENECK = 3 * MAP + 768 * 256 + 256 + 256 * 768 + 768
CA_MTL_NORMS = 6 * 2 * 2 * MAP


def size(params):
  return sum(leaf.size for leaf in jax.tree.leaves(params))


def build(run, num_tasks=1):
  points = extension.of_methods(run.method)
  config = run.model
  if config.vocab_size is None:
    config = dataclasses.replace(config, vocab_size=128)
  return Model(config, points, num_tasks=num_tasks)


def test_there_is_no_python_package_in_gin():
  # It would shadow the package that reads these files.
  assert not list(GIN.rglob('*.py'))


@pytest.mark.parametrize('name', RUNS)
def test_a_run_parses_and_builds(name):
  run = run_config.parse([f'gin/runs/{name}.gin'], flags={'vocab': 'sample'})
  tasks = mixtures.mixture(run.data.mixture).tasks
  model = build(run, num_tasks=len(tasks))
  assert bool(model.added) == (run.method is not None)
  assert len(tasks) >= 16


@pytest.mark.parametrize('name', RUNS)
def test_a_run_begins_with_its_command(name):
  first = (GIN / 'runs' / f'{name}.gin').read_text().splitlines()[0]
  verb = 'compare' if name == 'compare' else 'train'
  assert first.startswith(f'# hypergrid {verb} --gin_file=gin/runs/{name}.gin')


def test_the_plain_quickstart_differs_in_the_method_only():
  gated = run_config.parse(['gin/runs/quickstart.gin'])
  plain = run_config.parse(['gin/runs/quickstart_plain.gin'])
  assert gated.method is not None
  assert plain == dataclasses.replace(gated, method=None)


@pytest.mark.parametrize('name', sorted(PARAMETERS))
def test_a_published_size_has_its_parameters(name):
  run = run_config.parse([f'gin/models/{name}.gin'], REST)
  assert size(build(run).abstract_params) == PARAMETERS[name]


@pytest.mark.parametrize(
  ('name', 'added'),
  [
    ('plain', 0),
    # A local factor is made from d_model numbers, a global one is learned. The
    # grid is made uneven, so that rows and columns cannot be exchanged.
    ('hypergrid', LAYERS_OF_BASE * (8 + 4) * 768),
    ('hypergrid_l', LAYERS_OF_BASE * 768 * 768),
    ('hypergrid_lg', LAYERS_OF_BASE * (8 * 768 + 4)),
    ('hypergrid_gl', LAYERS_OF_BASE * (8 + 4 * 768)),
    # Columns by their width: 768 / 128 and 768 / 256 of them.
    ('hypergrid_v5', LAYERS_OF_BASE * (8 + 6) * 768),
    ('hypergrid_v6e', LAYERS_OF_BASE * (8 + 3) * 768),
    # Of one task all are alike; tests/methods has eight.
    ('adapters', 2 * LAYERS_OF_BASE * ADAPTER),
    ('adapters_dagger', 2 * LAYERS_OF_BASE * ADAPTER),
    ('adapters_single', 2 * LAYERS_OF_BASE * ADAPTER),
    ('hyperformer', 2 * LAYERS_OF_BASE * GENERATORS + 512 + MLP_TO_64[512]),
    (
      'hyperformer_pp',
      2 * (GENERATORS + (12 + 2) * 64 + MLP_TO_64[192] + 2 * 64) + 64,
    ),
    (
      'hyperformer_released',
      2 * (2 * GENERATORS + 12 * 64 + MLP_TO_64[128] + 2 * 64) + 64,
    ),
    ('ca_mtl_attention', CA_MTL_ATTENTION),
    ('ca_mtl_attention_bottleneck', CA_MTL_ATTENTION + CA_MTL_BOTTLENECK),
    ('ca_mtl_base', CA_MTL_ATTENTION + CA_MTL_BOTTLENECK + CA_MTL_NORMS),
    ('ca_mtl_uncertainty', CA_MTL_ATTENTION + CA_MTL_BOTTLENECK + CA_MTL_NORMS),
    (
      'ca_mtl_large',  # narrower windows, and a bottleneck per layer
      CA_MTL_ATTENTION
      - 12 * (512 + 2 * (768 + 1)) * (22 - 16)
      + 12 * CA_MTL_BOTTLENECK
      + CA_MTL_NORMS,
    ),
  ],
)
def test_a_method_adds_its_parameters_and_nothing_else(name, added):
  grid = ('HyperGrid.grid_cols=4',) * name.startswith('hypergrid')
  run = run_config.parse(
    ['gin/models/t5_1_0_base.gin', f'gin/methods/{name}.gin'], (*REST, *grid)
  )
  model = build(run)
  sizes = trees.flatten(model.abstract_params)
  assert sum(sizes[path].size for path in model.added) == added
  assert size(sizes) == PARAMETERS['t5_1_0_base'] + added


def test_two_methods_add_the_parameters_of_both():
  run = run_config.parse(
    [
      'gin/models/t5_1_0_base.gin',
      'gin/methods/hypergrid.gin',
      'gin/methods/ca_mtl_attention.gin',
    ],
    (*REST, 'run.method=(@HyperGrid(), @CAMTL())'),
  )
  added = CA_MTL_ATTENTION + LAYERS_OF_BASE * (8 + 8) * 768
  assert size(build(run).abstract_params) == PARAMETERS['t5_1_0_base'] + added


def test_the_base_run_adds_half_a_percent():
  run = run_config.parse(
    ['gin/runs/glue_super_glue_base.gin'], flags={'vocab': 'sample'}
  )
  added = size(build(run).abstract_params) - PARAMETERS['t5_1_0_base']
  assert added == LAYERS_OF_BASE * (32 + 32) * 768
  assert added / PARAMETERS['t5_1_0_base'] == pytest.approx(0.0053, abs=5e-5)


@pytest.mark.parametrize(
  'name', sorted(path.stem for path in (GIN / 'mixtures').glob('*.gin'))
)
def test_a_mixture_file_is_named_after_its_mixture(name):
  run = run_config.parse(
    [SIZE, f'gin/mixtures/{name}.gin'], ['train.num_steps=1']
  )
  assert run.data.mixture == name
  assert mixtures.mixture(name).tasks


@pytest.mark.parametrize(
  ('name', 'temperature', 'lengths'),
  [('t5', 1.0, (512, 84)), ('hyperformer', 10.0, (128, 128))],
)
def test_a_protocol_file_comes_after_a_mixture(name, temperature, lengths):
  run = run_config.parse(
    [SIZE, 'gin/mixtures/glue.gin', f'gin/protocols/{name}.gin'], REST
  )
  assert run.data.protocol == name
  assert run.data.mixture == 'glue'
  assert run.data.temperature == temperature
  assert run.data.lengths == lengths


@pytest.mark.parametrize('before', [None, *SAMPLERS])
@pytest.mark.parametrize('name', SAMPLERS)
def test_a_sampler_file_replaces_what_stood_before(name, before):
  earlier = [] if before is None else [f'gin/samplers/{before}.gin']
  run = run_config.parse(
    [SIZE, 'gin/mixtures/glue.gin', *earlier, f'gin/samplers/{name}.gin'], REST
  )
  mixing, temperature, tasks_per_batch = SAMPLERS[name]
  assert (run.sampler is not None) == (name == 'uncertainty')
  assert run.data.tasks_per_batch == tasks_per_batch
  if mixing is not None:
    assert run.data.mixing == mixing
  if temperature is not None:
    assert run.data.temperature == temperature


def test_the_protocol_of_hyperformer_has_its_sampling():
  protocol, sampler = (
    run_config.parse([SIZE, 'gin/mixtures/glue.gin', name], REST).data
    for name in (
      'gin/protocols/hyperformer.gin',
      'gin/samplers/hyperformer.gin',
    )
  )
  assert protocol.tasks_per_batch == sampler.tasks_per_batch == 'one'
  assert protocol.temperature == sampler.temperature == 10.0


@pytest.mark.parametrize(
  ('name', 'mesh'),
  [
    ('cpu', (1, -1, 1, 1)),
    ('data_parallel', (1, -1, 1, 1)),
    ('fsdp', (1, 1, -1, 1)),
    ('model_parallel_2', (1, -1, 1, 2)),
    ('one_gpu', (1, 1, 1, 1)),
    ('v5e_8', (1, 1, 8, 1)),
    ('v5e_16', (1, 1, 16, 1)),
    ('v4_8', (1, 1, 4, 1)),
    ('v5p_8', (1, 1, 4, 1)),
    ('v6e_8', (1, 1, 8, 1)),
    ('v5e_256', (1, 1, 64, 4)),
    ('v4_128', (1, 4, 4, 4)),
    ('v5p_128', (1, 4, 4, 4)),
    ('v6e_64', (1, 4, 4, 4)),
    ('v5e_256_x2', (2, 1, 64, 4)),
  ],
)
def test_a_partitioning_file(name, mesh):
  run = run_config.parse([SIZE, f'gin/partitioning/{name}.gin'], REST)
  assert dataclasses.astuple(run.mesh)[:4] == mesh


def test_every_file_is_tested_here():
  tested = {
    'models': {*PARAMETERS, 'tiny'},
    'methods': {
      'plain',
      'hypergrid',
      'hypergrid_l',
      'hypergrid_lg',
      'hypergrid_gl',
      'adapters',
      'adapters_dagger',
      'adapters_single',
      'hyperformer',
      'hyperformer_pp',
      'hyperformer_released',
      'ca_mtl_base',
      'ca_mtl_large',
      'ca_mtl_attention',
      'ca_mtl_attention_bottleneck',
      'ca_mtl_uncertainty',
      'hypergrid_v5',
      'hypergrid_v6e',
    },
    'mixtures': set(mixtures.MIXTURES),
    'partitioning': {
      'cpu',
      'data_parallel',
      'fsdp',
      'model_parallel_2',
      'one_gpu',
      'v4_8',
      'v5e_16',
      'v5e_8',
      'v5p_8',
      'v6e_8',
      'v5e_256',
      'v4_128',
      'v5p_128',
      'v6e_64',
      'v5e_256_x2',
    },
    'protocols': set(protocols.PROTOCOLS),
    'samplers': set(SAMPLERS),
    'papers': {path.stem for path in (GIN / 'papers').iterdir()},  # test_papers
    'runs': set(RUNS),
  }
  for path in GIN.rglob('*.gin'):
    assert path.stem in tested[path.parent.name]


def test_a_required_value_has_no_good_default():
  # Which vocabulary a pre-trained size needs, and where its parameters are,
  # cannot be guessed.
  required = {
    re.match(r'\S+', line)[0]
    for path in GIN.rglob('*.gin')
    for line in path.read_text().splitlines()
    if '%gin.REQUIRED' in line
  }
  assert required == {'data.vocabulary', 'train.initial_checkpoint'}

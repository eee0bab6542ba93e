"""What a configuration makes before any data is read."""

import dataclasses
import pathlib
import types

import pytest

from hypergrid_jax import errors, trees
from hypergrid_jax.config import run_config
from hypergrid_jax.parallel import partitioning
from hypergrid_jax.runs import identity, summary
from hypergrid_jax.runs import setup as setup_lib

RUN = (
  ['gin/models/tiny.gin', 'gin/mixtures/glue.gin'],
  ('data.vocabulary=sample', 'train.num_steps=1', 'data.inputs_length=64'),
)


def build(*bindings):
  run = run_config.parse(RUN[0], (*RUN[1], *bindings))
  return setup_lib.build(run, 100, num_tasks=7).model


BOTH = 'run.method=(@HyperGrid(), @CAMTL())'


def test_parameters_of_methods_together_are_reported_as_one_sum():
  added, per_task = zip(
    *(
      (counts['added'], counts['per_task'])
      for counts in (
        summary.parameter_counts(model, {})
        for model in (
          build('run.method=HyperGrid', 'HyperGrid.state=task'),
          build('run.method=CAMTL'),
          build(BOTH, 'HyperGrid.state=task'),
        )
      )
    ),
    strict=True,
  )
  assert added[2] == added[0] + added[1]
  d = run_config.parse(*RUN).model.d_model
  assert per_task == (2 * d, d, 3 * d)  # HyperGrid has a table in each stack


def test_examples_longer_than_what_a_method_has_parameters_for_are_refused():
  build('run.method=CAMTL', 'CAMTL.max_length=64')
  build('run.method=CAMTL', 'CAMTL.max_length=63', 'CAMTL.attention=None')
  with pytest.raises(
    errors.UserError, match=r'inputs_length = 64, .* max_length = 63 .* to 64,'
  ):
    build(BOTH, 'CAMTL.max_length=63')


def setup_of(*bindings):
  """A setup without data."""
  run = run_config.parse(RUN[0], (*RUN[1], *bindings))
  corpus = types.SimpleNamespace(
    vocabulary=types.SimpleNamespace(fingerprint='f'),
    task_ids={},
    train={},
    notes=('one',),
  )
  built = setup_lib.build(run, 100, num_tasks=7)
  return setup_lib.SetupWithData(
    run, built.model, built.mesh, built.params, pathlib.Path(), corpus
  )


@pytest.mark.parametrize(
  'binding',
  [
    'T5Config.dtype=bfloat16',
    'T5Config.remat_policy=full',
    'T5Config.scan_layers=False',
    'train.num_steps=9',
    'train.log_period=9',
    'evaluate.limit=9',
    'mesh.model=2',
    'data.token_dir=elsewhere',
  ],
)
def test_a_run_goes_on_with_what_changes_no_step(binding):
  before, after = setup_of(), setup_of(binding)
  assert after.differences(before.identity) == []
  layouts = [trees.layout(trees.flatten(s.state)) for s in (before, after)]
  assert layouts[0] == layouts[1]


@pytest.mark.parametrize(
  ('binding', 'line'),
  [
    ('T5Config.d_ff=96', 'model/d_ff: 256 there, 96 here'),
    ('train.seed=3', 'train/seed: 0 there, 3 here'),
    ('train.clip_norm=2.0', "train/clip_norm: 'absent' there, 2.0 here"),
    ('Adafactor.decay=0.7', 'optimizer/decay: 0.8 there, 0.7 here'),
    ('data.batch_size=64', 'data/batch_size: 128 there, 64 here'),
  ],
)
def test_another_run_is_told_by_what_differs(binding, line):
  assert setup_of(binding).differences(setup_of().identity) == [line]


def test_the_identity_has_row_sizes_as_numbers():
  default = setup_of('data.row_targets_length=None', 'data.max_segments=None')
  encoder, decoder = default.run.data.row_lengths
  sizes = f'data.row_targets_length={decoder}', 'data.max_segments='
  same = setup_of(sizes[0], f'{sizes[1]}{encoder // 10}')
  assert same.differences(default.identity) == []
  other = setup_of(sizes[0], f'{sizes[1]}3')
  assert other.differences(default.identity) == [
    f'data/max_segments: {encoder // 10} there, 3 here'
  ]


def test_the_identity_names_all_methods():
  def identity(*bindings):
    return setup_of(*bindings).identity['method']

  both = identity(BOTH, 'CAMTL.window=9', 'HyperGrid.grid_rows=4')
  assert [one['name'] for one in both] == ['HyperGrid', 'CAMTL']
  assert (both[0]['grid_rows'], both[1]['window']) == (4, 9)
  assert both[1] == identity('run.method=CAMTL', 'CAMTL.window=9')
  assert identity() is None


def test_a_run_of_an_earlier_version_goes_on():
  """With other names of methods, without new fields, with deleted ones."""
  setup = setup_of(BOTH, 'HyperGrid.grid_rows=4')
  saved = setup.identity
  for method in saved['method']:
    method['name'] += 'Config'
    method['deleted'] = 1
  del saved['method'][1]['window'], saved['train']['z_loss']
  saved['train']['deleted'] = saved['model']['dtype'] = 'anything'
  assert setup.differences(saved) == []
  changed = setup_of(BOTH, 'HyperGrid.grid_rows=4', 'train.z_loss=0.1')
  assert changed.differences(saved) == ['train/z_loss: 0.0 there, 0.1 here']
  saved['method'].pop()
  assert any('method' in line for line in setup.differences(saved))


def test_data_that_are_not_open_are_not_compared():
  setup = setup_of()
  assert (
    setup.differences({**setup.identity, 'training_sets': {'a': 'x'}}) == []
  )
  saved = {**setup.identity, 'task_ids': {'a': 0}}
  assert setup.differences(saved) == ["task_ids/a: 0 there, 'absent' here"]


# Fields that decide how long, how often, where or how fast, and not what.
UNDECIDING = {
  'model': {'dtype', 'remat_policy', 'scan_layers'},
  'train': {
    'num_steps',
    'checkpoint_period',
    'checkpoint_minutes',
    'eval_period',
    'log_period',
    'keep_checkpoints',
    'keep_best_per_task',
  },
  # What was read decides, and has its fingerprints.
  'data': {'source', 'task_files', 'token_dir', 'vocabulary', 'missing_train'},
}


@pytest.mark.parametrize('part', identity.FIELDS)
def test_of_every_field_it_is_known_whether_it_decides(part):
  fields = dataclasses.fields(getattr(run_config.parse(*RUN), part))
  deciding = set(identity.FIELDS[part])
  assert not deciding & UNDECIDING[part]
  assert deciding | UNDECIDING[part] == {field.name for field in fields}


@pytest.mark.parametrize(
  ('bindings', 'noted'),
  [
    ((), False),
    (('train.trainable=added_and_norms',), True),
    (
      ('train.trainable=added_and_norms', 'train.initial_checkpoint=before'),
      False,
    ),
  ],
)
def test_freezing_random_values_is_noted(bindings, noted):
  setup = setup_of('run.method=HyperGrid', *bindings)
  expected = ("trainable is 'added_and_norms' and there is no",) * noted
  assert len(setup.notes) == 1 + noted
  for note, text in zip(setup.notes, ('one', *expected), strict=True):
    assert text in note


@pytest.mark.parametrize(
  ('bindings', 'message'),
  [
    (
      ('data.pack=False', 'data.length_buckets=(32, 64)'),
      r'chooses among rows of all tasks and of one length\. Leave .*_buckets',
    ),
    (('data.tasks_per_batch=one',), "data.tasks_per_batch = 'one' out"),
    (
      ('UncertaintySampling.candidates_per_task=12',),
      r'candidates_per_task = 12 cannot be divided over the 8 groups of devices'
      r'.* a multiple of 8',
    ),
    (
      ('UncertaintySampling.candidates_per_task=17',),
      r'candidates_per_task = 17 is more than data.batch_size = 16',
    ),
  ],
)
def test_candidates_that_cannot_be_had_are_refused(bindings, message):
  def check(*bindings):
    run = run_config.parse(
      [*RUN[0], 'gin/samplers/uncertainty.gin'],
      (*RUN[1], 'data.batch_size=16', 'data.row_length=64', *bindings),
    )
    setup_lib.check_rows(run, partitioning.make_mesh(run.mesh))

  check('UncertaintySampling.candidates_per_task=8')
  check(
    'UncertaintySampling.candidates_per_task=2', 'mesh.data=2', 'mesh.model=4'
  )
  with pytest.raises(errors.UserError, match=message):
    check(*bindings)

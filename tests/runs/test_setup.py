"""What a configuration makes before any data is read."""

import json
import pathlib
import types

import pytest

from hypergrid_jax.runs import setup as setup_lib
from hypergrid_jax.runs import summary
from hypergrid_jax import errors, trees
from hypergrid_jax.config import run_config
from hypergrid_jax.parallel import partitioning

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
  'binding', ['dtype=bfloat16', 'remat_policy=full', 'scan_layers=False']
)
def test_a_run_goes_on_with_other_activations_from_the_same_state(binding):
  def facts(*bindings):
    setup = setup_of(*bindings)
    state = trees.flatten(setup.state)
    return setup.identity, trees.layout(state)

  assert facts(f'T5Config.{binding}') == facts()
  wider = facts('T5Config.d_ff=96')
  assert wider[0] != facts()[0]
  assert wider[1] != facts()[1]


def test_the_identity_of_a_run_has_its_row_sizes_as_numbers():
  default = setup_of('data.row_targets_length=None', 'data.max_segments=None')
  encoder, decoder = default.run.data.row_lengths
  sizes = (
    f'data.row_targets_length={decoder}',
    f'data.max_segments={encoder // 10}',
  )
  assert default.identity == setup_of(*sizes).identity
  assert default.identity != setup_of(sizes[0], 'data.max_segments=3').identity


def test_the_identity_of_a_run_names_all_its_methods():
  def described(*bindings):
    return json.loads(json.dumps(setup_of(*bindings).identity['method']))

  both = described(BOTH, 'CAMTL.window=9', 'HyperGrid.grid_rows=4')
  assert [one['name'] for one in both] == ['HyperGrid', 'CAMTL']
  assert (both[0]['grid_rows'], both[1]['window']) == (4, 9)
  assert both[1] == described('run.method=CAMTL', 'CAMTL.window=9')
  assert described() is None


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

"""How the rows of a run's steps are chosen, from its configuration."""

import pytest

from hypergrid_jax import (
  configuration,
  corpus,
  errors,
  partitioning,
  row_choice,
)

RUN = (
  ['gin/models/tiny.gin', 'gin/mixtures/glue.gin'],
  ('data.vocabulary=sample', 'train.num_steps=1', 'data.inputs_length=64'),
)


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
    run = configuration.parse(
      [*RUN[0], 'gin/samplers/uncertainty.gin'],
      (*RUN[1], 'data.batch_size=16', 'data.row_length=64', *bindings),
    )
    row_choice.check_rows(run, partitioning.make_mesh(run.mesh))

  check('UncertaintySampling.candidates_per_task=8')
  check(
    'UncertaintySampling.candidates_per_task=2', 'mesh.data=2', 'mesh.model=4'
  )
  with pytest.raises(errors.UserError, match=message):
    check(*bindings)


@pytest.mark.parametrize(('count', 'rows'), [('None', 128), ('9', 72)])
def test_how_many_rows_a_step_is_given(count, rows):
  run = configuration.parse(
    [*RUN[0], 'gin/samplers/uncertainty.gin'],
    (
      *RUN[1],
      'data.batch_size=16',
      f'UncertaintySampling.candidates_per_task={count}',
    ),
  )
  names = corpus.task_names('glue')
  # MNLI is trained once and evaluated twice.
  assert len(names) == 10
  assert len(row_choice.trained_tasks(names)) == 8
  assert row_choice.abstract_rows(run, names) == rows


def test_without_a_sampler_a_step_takes_all_its_rows():
  run = configuration.parse(*RUN)
  assert row_choice.abstract_rows(run, ()) == run.data.batch_size
  assert row_choice.make_selector(run, None, (), None) is None
  rows = object()
  assert row_choice.batches(run, rows, None) is rows

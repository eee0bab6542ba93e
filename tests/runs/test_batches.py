"""What the steps of a run are given, from its configuration."""

import jax
import pytest

from hypergrid_jax.config import run_config
from hypergrid_jax.parallel import partitioning
from hypergrid_jax.precompiling import programs
from hypergrid_jax.runs import batches, setup

RUN = (
  ['gin/models/tiny.gin', 'gin/mixtures/glue.gin'],
  (
    'data.vocabulary=sample',
    'train.num_steps=1',
    'data.inputs_length=64',
    'data.row_length=64',
    'data.batch_size=16',
  ),
)


@pytest.mark.parametrize(('count', 'rows'), [('None', 128), ('8', 64)])
def test_a_program_for_other_devices_is_given_candidates(
  count, rows, monkeypatch
):
  run = run_config.parse(
    [*RUN[0], 'gin/samplers/uncertainty.gin'],
    (*RUN[1], f'UncertaintySampling.candidates_per_task={count}'),
  )
  parts = setup.build(run, 600, num_tasks=8)
  # MNLI is trained once and evaluated twice: eight tasks.
  assert programs.batch_shapes(parts).task_ids.shape == (rows,)
  monkeypatch.setattr(programs, '_compile', lambda parts, lower: lower())
  with jax.set_mesh(parts.mesh):
    lowered = programs.compile_training(parts)
  (arguments, _) = lowered.in_avals
  assert arguments[1].task_ids.shape == (rows,)
  chosen = lowered.out_info[1].chosen
  assert chosen.shape == (16,)


def test_without_a_sampler_a_step_takes_all_its_rows():
  run = run_config.parse(*RUN)
  assert programs.batch_shapes(
    setup.build(run, 600, num_tasks=8)
  ).task_ids.shape == (16,)
  assert batches.make_selector(run, None, (), None) is None
  mesh = partitioning.make_mesh(run.mesh)
  setup.check_rows(run, mesh)

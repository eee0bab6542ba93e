"""Which form runs where, and what is refused."""

import dataclasses

import jax
import jaxtyping
import pytest

from hypergrid_jax import errors
from hypergrid_jax.ops import choices, tpu_form, tpu_plans
from hypergrid_jax.ops.xla_forms import BlockLoop, WeightPerBatch, WeightPerRow
from hypergrid_jax.parallel import current_mesh

PROBLEM = choices.Problem(
  batch=8,
  length=128,
  k=512,
  n=128,
  rows=8,
  columns=8,
  gates='segment',
  dtype='bfloat16',
)


def problem(**changes):
  return dataclasses.replace(PROBLEM, **changes)


@pytest.fixture
def tpu(monkeypatch):
  """One TPU v5e, as far as choices go."""
  chip = tpu_plans.Chip(cores=1, unit=128, units=4, vmem=2**27)
  monkeypatch.setattr(current_mesh, 'platform', lambda: 'tpu')
  monkeypatch.setattr(tpu_plans, 'current_chip', lambda: chip)
  monkeypatch.setattr(jax, 'device_count', lambda: 1)


@pytest.mark.parametrize(
  ('rows', 'columns', 'k', 'n', 'cut'),
  [
    (8, 8, 512, 128, 'rows'),  # 8 * 128 numbers per token, not 8 * 512
    (8, 8, 128, 512, 'columns'),
    (16, 2, 512, 128, 'columns'),
    (1, 4, 96, 96, 'rows'),
  ],
)
def test_without_a_tpu_the_side_with_less_elementwise_work_is_cut(
  rows, columns, k, n, cut
):
  asked = problem(rows=rows, columns=columns, k=k, n=n)
  assert choices.choose(asked, 'auto').cut == cut


def test_on_a_cpu_long_rows_with_one_gate_have_a_weight_each():
  loop = BlockLoop('rows', choices.CPU_CHUNK)
  assert choices.choose(PROBLEM, 'auto') == loop
  assert choices.choose(problem(length=512), 'auto') == loop
  assert choices.choose(problem(gates='row'), 'auto') == loop
  long_row = problem(gates='row', length=choices.CPU_LONG_ROW)
  assert choices.choose(long_row, 'xla') == WeightPerRow()
  cut = choices.choose(long_row, 'auto', cut='columns')
  assert cut == BlockLoop('columns', choices.CPU_CHUNK)
  assert choices.choose(problem(gates='batch'), 'xla') == WeightPerBatch()


def test_elsewhere_all_tokens_are_taken_at_once(monkeypatch):
  monkeypatch.setattr(current_mesh, 'platform', lambda: 'gpu')
  assert choices.choose(problem(length=1024), 'auto') == BlockLoop('rows')
  assert choices.choose(problem(length=512, gates='row'), 'auto') == BlockLoop(
    'rows'
  )


def test_a_tpu_runs_the_kernels_where_they_pay(tpu):
  form = choices.choose(PROBLEM, 'auto')
  assert isinstance(form, tpu_form.Kernels)
  assert form.plan.tokens == 8 * 128
  assert choices.choose(problem(gates='row'), 'auto') == form
  assert choices.choose(problem(batch=3), 'auto') == BlockLoop('rows')
  assert choices.choose(problem(gates='batch'), 'auto') == WeightPerBatch()
  assert choices.choose(PROBLEM, 'xla') == BlockLoop('rows')
  assert choices.choose(problem(dtype='float64'), 'auto') == BlockLoop('rows')


def test_of_several_tpus_the_mesh_has_to_be_known(tpu, monkeypatch):
  monkeypatch.setattr(jax, 'device_count', lambda: 4)
  assert choices.choose(PROBLEM, 'auto') == BlockLoop('rows')
  with jax.set_mesh(jax.make_mesh((4,), ('data',))):
    assert isinstance(choices.choose(PROBLEM, 'auto'), tpu_form.Kernels)


def test_the_kernels_need_a_tpu():
  with pytest.raises(
    errors.UserError,
    match="'pallas': it needs a TPU, and this runs on cpu.*'auto'",
  ):
    choices.choose(PROBLEM, 'pallas')


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'dtype': 'float16'}, 'bfloat16 or float32, not float16'),
    ({'n': 2**22}, r'512 x 4194304 does not fit .*mesh\.model'),
  ],
)
def test_what_the_kernels_cannot_do_is_said(tpu, changes, message):
  asked = problem(**changes)
  with pytest.raises(errors.UserError, match=message):
    choices.choose(asked, 'pallas')
  assert isinstance(choices.choose(asked, 'auto'), BlockLoop)


def test_a_tpu_that_jax_does_not_know_is_said(tpu, monkeypatch):
  def unknown():
    raise ValueError('Unsupported TPU device kind')

  monkeypatch.setattr(tpu_plans, 'current_chip', unknown)
  with pytest.raises(errors.UserError, match='does not know the TPU'):
    choices.choose(PROBLEM, 'pallas')
  assert choices.choose(PROBLEM, 'auto') == BlockLoop('rows')


def test_an_unknown_implementation_is_refused():
  jaxtyping.config.update('jaxtyping_disable', True)
  try:
    with pytest.raises(errors.UserError, match="'palas'.*mean 'pallas'"):
      choices.choose(PROBLEM, 'palas')
  finally:
    jaxtyping.config.update('jaxtyping_disable', False)

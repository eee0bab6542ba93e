"""`hypergrid precompile` as a user runs it."""

import json

import pytest

from hypergrid_jax.cli import main
from hypergrid_jax.parallel import partitioning
from hypergrid_jax.precompiling import measures, programs
from tests.precompiling import runs

FILES = [f'--gin_file={name}' for name in runs.GIN]


def precompile(*arguments):
  return main.main(['precompile', *FILES, *runs.SMALL, *arguments])


@pytest.mark.usefixtures('compile_quickly')
def test_a_run_on_the_cpus_here(tmp_path, capsys):
  file = tmp_path / 'found.json'
  code = precompile(
    '--topology=cpu', f'--json={file}', 'mesh.data=4', 'mesh.model=2'
  )
  assert code == 0
  found = json.loads(file.read_text())
  assert found['devices'] == 8
  assert found['mesh'] == {'slice': 1, 'data': 4, 'fsdp': 1, 'model': 2}
  train, decode = found['train'], found['decode']
  assert train['costs']['flops'] * 8 == pytest.approx(
    found['analytic_flops']['total'], rel=0.03
  )
  assert sum(train['memory'].values()) == train['needed']
  # Every device holds half of what has the rule 'model', and of the rest all.
  state = partitioning.bytes_per_device(
    runs.parts('mesh.data=4', 'mesh.model=2').state.params
  )
  assert train['memory']['parameters'] == state
  assert {'all-reduce'} <= {one['kind'] for one in train['collectives']}
  assert decode['costs']['unbounded_loops'] == []
  # Lines end where the console does.
  out = ' '.join(capsys.readouterr().out.split())
  assert 'Training step: memory of one device' in out
  assert 'of the analytic count of T5' in out
  assert 'none is' in out


@pytest.mark.parametrize(
  ('arguments', 'says'),
  [
    (['--topology=v5z:4x4'], 'there is no such topology'),
    (['--topology=cpu', 'mesh.data=3'], 'there are 8'),
    (['--topology=cpu', '--slices=2', 'mesh.model=3'], 'there are 8'),
    (['--topology=cpu', 'evaluate.batch_size=6'], 'evaluate.batch_size'),
    (['--topology=cpu', 'data.batch_size=12'], 'data.batch_size'),
    ([], '--topology'),
    (['--topology=cpu', '--slices=0'], '--slices'),
  ],
)
def test_mistakes(arguments, says, capsys):
  assert precompile(*arguments) == 2
  assert says in capsys.readouterr().err


def test_no_data_is_opened(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for name in ('compile_training', 'compile_decoding'):
    monkeypatch.setattr(programs, name, lambda parts: None)
  monkeypatch.setattr(measures, 'measure', _nothing)
  arguments = ['data.source=files:nowhere', 'data.vocabulary=nowhere.model']
  assert precompile('--topology=cpu', *arguments) == 0
  assert list(tmp_path.iterdir()) == []


def _nothing(*_):
  from hypergrid_jax.precompiling import hlo_costs

  costs = hlo_costs.Costs(1, 0, 0, 1, ())
  return measures.Measures({}, None, costs, (), None, 0.0)


# The logits alone: 32 rows of 512 tokens on each chip, float32, are 18.4 GiB.
LARGE = (
  'T5Config.vocab_size=301056',
  'T5Config.dtype=bfloat16',
  'T5Config.remat_policy=full',
  'data.batch_size=128',
  'data.row_targets_length=512',
)


@pytest.mark.tpu
@pytest.mark.slow
def test_what_does_not_fit_a_tpu_gets_advice_that_does(tmp_path, capsys):
  file = tmp_path / 'found.json'
  flags = '--quick', '--program=train', f'--json={file}'
  code = precompile('--topology=v5e:2x2', *flags, *LARGE)
  assert code == 1
  found = json.loads(file.read_text())
  assert not found['train']['fits']
  assert found['train']['needed'] > 15.75 * 2**30
  fitting = [one for one in found['advice'] if one['fits']]
  assert [one['bindings'] for one in fitting] == [
    {'train.microbatches': 2},
    {'train.microbatches': 4},
  ]
  needed = [one['measures']['needed'] for one in fitting]
  assert 18.4 / 4 < needed[1] / 2**30 < needed[0] / 2**30 < 15.75
  assert 'Set train.microbatches=' in capsys.readouterr().out


@pytest.mark.tpu
def test_a_tpu_gets_its_own_kernels(tmp_path):
  file = tmp_path / 'found.json'
  sizes = (
    'T5Config.d_model=256',
    'T5Config.d_ff=512',
    'T5Config.dtype=bfloat16',
    'data.row_length=512',
    'run.method=HyperGrid',
    'HyperGrid.grid_rows=2',
    'HyperGrid.grid_cols=2',
    'mesh.data=2',
    'mesh.model=2',
  )
  flags = '--quick', '--program=train', f'--json={file}'
  code = precompile('--topology=v5e:2x2', *flags, *sizes)
  assert code == 0
  train = json.loads(file.read_text())['train']
  # The output kernels of 3 + 2 layers on half of 512 inputs: y and dx, dW, with
  # 16 / 2 rows of 512 and of 24 tokens (192, which fill no kernel's tiles).
  once = 2 * (16 // 2 * 512) * 256 * 256
  assert train['costs']['kernel_flops'] in (3 * 3 * once, 3 * 4 * once)
  assert train['costs']['uncounted_kernels'] == 0
  analytic = json.loads(file.read_text())['analytic_flops']['total']
  assert train['costs']['flops'] * 4 == pytest.approx(analytic, rel=0.1)
  assert train['roofline']['compute'] == pytest.approx(
    train['costs']['flops'] / 197e12
  )

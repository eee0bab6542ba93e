"""Whole comparisons: what is trained, kept, refused and written."""

import importlib.util
import json
import statistics
import types

import jax
import pytest

from hypergrid_jax.cli import main
from hypergrid_jax.comparing import command, plot, step_times
from hypergrid_jax.evaluation import results
from hypergrid_jax.parallel import host_rows
from hypergrid_jax.runs import compiled_step, experiment
from hypergrid_jax.training import loop
from tests.comparing import scored

METHODS = ('plain', 'single_task', 'hypergrid')


@pytest.fixture(scope='module')
def token_dir(tmp_path_factory):
  return tmp_path_factory.mktemp('tokens')


@pytest.fixture
def trained(monkeypatch):
  """The directories that were trained in, in order."""
  calls = []

  def record(run, model_dir, **options):
    calls.append('/'.join(model_dir.parts[-3:]))
    return scored.train(run, model_dir, **options)

  monkeypatch.setattr(experiment, 'train', record)
  return calls


def compare(directory, token_dir, *more, methods=METHODS):
  return main.main(
    [
      'compare',
      scored.GIN_FILE,
      f'--methods={",".join(methods)}',
      f'--model_dir={directory}',
      f'--token_dir={token_dir}',
      '--no_plot',
      '--step_pairs=0',
      *scored.BINDINGS,
      *more,
    ]
  )


def test_runs_become_a_table_once(tmp_path, token_dir, trained, capsys):
  directory = tmp_path / 'c'
  assert compare(directory, token_dir, '--seeds=3,5') == 0
  assert trained == [
    'c/plain/seed3',
    'single_task/seed3/glue_cola',
    'single_task/seed3/glue_rte',
    'c/hypergrid/seed3',
    'c/plain/seed5',
    'c/hypergrid/seed5',
  ]
  text = (directory / 'compare.md').read_text()
  found = json.loads((directory / 'compare.json').read_text())['methods']
  assert list(found) == list(METHODS)
  assert found['plain']['seeds'] == [3, 5]
  assert found['single_task']['seeds'] == [3]

  # The scores are those of the runs' own files.
  for method in ('plain', 'hypergrid'):
    each = [
      results.read_results(directory / method / f'seed{k}' / 'eval' / '4.json')
      for k in (3, 5)
    ]
    rte = [one.scores['glue_rte']['accuracy'] for one in each]
    assert rte[0] != rte[1]
    (line,) = (x for x in found[method]['scores'] if x['task'] == 'glue_rte')
    assert line['values'] == rte
    assert line['mean'] == pytest.approx(sum(rte) / 2)
    assert line['deviation'] == pytest.approx(statistics.stdev(rte))
  alone = [
    results.read_results(
      directory / 'single_task' / 'seed3' / task / 'eval' / '4.json'
    )
    for task in scored.TASKS
  ]
  assert [list(one.scores) for one in alone] == [[t] for t in scored.TASKS]
  values = [list(s.values())[0] for one in alone for s in one.scores.values()]
  assert [line['values'] for line in found['single_task']['scores']] == [
    [values[0]],
    [values[1]],
    [pytest.approx(sum(values) / 2)],
  ]

  # Parameters: a whole T5 for each task, or one divided among both.
  facts = json.loads((directory / 'plain/seed3/run.json').read_text())
  size = facts['parameters']['total']
  single, plain = (found[m]['parameters'] for m in ('single_task', 'plain'))
  assert (single['trained'], single['trained_per_task']) == (2 * size, size)
  assert (single['added'], single['added_per_task']) == (size, size / 2)
  assert (plain['trained'], plain['trained_per_task']) == (size, size / 2)
  grid = json.loads((directory / 'hypergrid/seed3/run.json').read_text())
  added = found['hypergrid']['parameters']
  assert added['added'] == grid['parameters']['added'] > 0
  assert added['trained_per_task'] == (size + added['added']) / 2

  # Once more: nothing is trained, and the table is the same.
  trained.clear()
  capsys.readouterr()
  assert compare(directory, token_dir, '--seeds=3,5') == 0
  assert trained == []
  assert (directory / 'compare.md').read_text() == text
  assert 'hypergrid' in capsys.readouterr().out

  # Less is a table of less; more trains what is new.
  assert compare(directory, token_dir, '--seeds=7', methods=['plain']) == 0
  assert trained == ['c/plain/seed7']


@pytest.mark.slow
def test_steps_are_timed_once(tmp_path, token_dir, trained, monkeypatch):
  methods = ['plain', 'ca_mtl_uncertainty']
  more = ['--step_pairs=1', 'UncertaintySampling.candidates_per_task=8']
  assert compare(tmp_path, token_dir, *more, methods=methods) == 0
  found = json.loads((tmp_path / 'compare.json').read_text())['methods']
  time = found['ca_mtl_uncertainty']['step_time']
  assert time['pairs'] == 1
  assert time['condition_milliseconds'] > 0
  assert time['selection_milliseconds'] > 0
  assert time['relative'] == pytest.approx(
    time['milliseconds'] / time['plain_milliseconds']
  )
  assert found['plain']['step_time'] is None
  text = (tmp_path / 'compare.md').read_text()
  assert 'choosing rows alone' in text
  monkeypatch.setattr(
    step_times, 'measure', lambda *_, **__: pytest.fail('again')
  )
  assert compare(tmp_path, token_dir, *more, methods=methods) == 0
  assert (tmp_path / 'compare.md').read_text() == text
  # Another program is measured anew.
  with pytest.raises(pytest.fail.Exception):
    compare(
      tmp_path, token_dir, *more, 'T5Config.scan_layers=False', methods=methods
    )


def test_another_configuration_is_refused_before_training(
  tmp_path, token_dir, trained, capsys
):
  directory = tmp_path / 'c'
  assert compare(directory, token_dir, methods=['plain']) == 0
  trained.clear()
  for binding, told in (
    ('LinearWarmup.learning_rate=0.5', 'schedule/learning_rate'),
    ('evaluate.limit=3', 'evaluate.limit: None there, 3 here'),
  ):
    methods = ['hypergrid', 'plain']
    assert compare(directory, token_dir, binding, methods=methods) == 2
    assert told in capsys.readouterr().err
  assert trained == []
  assert not (directory / 'hypergrid').exists()


def test_a_missing_checkpoint_to_start_from_is_told_once(
  tmp_path, token_dir, trained, capsys
):
  directory, start = tmp_path / 'c', tmp_path / 'start'
  binding = f'train.initial_checkpoint="{start}"'
  assert compare(directory, token_dir, binding, methods=['plain']) == 2
  message = capsys.readouterr().err
  assert message.startswith(f"hypergrid: train.initial_checkpoint = '{start}'")
  assert trained == []


def test_methods_train_on_the_same_batches(tmp_path, token_dir, monkeypatch):
  seen = {1: [], 2: []}

  def record(config, state, *, batches, **_):
    seen[config.seed].append([batch.encoder_input_tokens for batch in batches])
    raise loop.NonFiniteLossError('stop here')

  monkeypatch.setattr(loop, 'train', record)
  monkeypatch.setattr(
    experiment, '_start_state', lambda *_: (types.SimpleNamespace(step=0), {})
  )
  monkeypatch.setattr(
    compiled_step,
    'compile_traced',
    lambda setup, _: compiled_step.StepProgram(
      {}, host_rows.row_parts(setup.batch_sharding)
    ),
  )
  methods = ['plain', 'hypergrid']
  assert compare(tmp_path, token_dir, '--seeds=1,2', methods=methods) == 2
  for plain, other in seen.values():
    assert len(plain) == len(other) == 4
    for one, same in zip(plain, other, strict=True):
      assert (one == same).all()
  assert (seen[1][0][0] != seen[2][0][0]).any()


@pytest.mark.parametrize(
  'error',
  [
    loop.NonFiniteLossError('The loss is nan at step 3.'),
    jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: no memory'),
  ],
)
def test_a_run_that_fails_does_not_stop_the_others(
  error, tmp_path, token_dir, monkeypatch, capsys
):
  def fails(run, model_dir, **options):
    if run.method is not None and run.train.seed == 1:
      raise error
    return scored.train(run, model_dir, **options)

  monkeypatch.setattr(experiment, 'train', fails)
  methods = ['hypergrid', 'plain']
  assert compare(tmp_path, token_dir, '--seeds=1,2', methods=methods) == 2
  message = capsys.readouterr().err
  assert '1 of the runs failed' in message
  assert f'hypergrid, seed 1: {error}' in message
  found = json.loads((tmp_path / 'compare.json').read_text())['methods']
  assert found['hypergrid']['seeds'] == [2]
  assert found['plain']['seeds'] == [1, 2]
  assert found['hypergrid']['scores'][0]['deviation'] is None
  assert str(error) in (tmp_path / 'compare.md').read_text()


def test_a_method_that_never_ended_well_is_not_timed(
  tmp_path, token_dir, monkeypatch
):
  timed = []

  def fails(run, model_dir, **options):
    if run.method is not None and run.method.variant == 'LG':
      raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: no memory')
    return scored.train(run, model_dir, **options)

  def measure_all(plain, setups, *_, **__):
    timed.extend(setups)
    return {}

  monkeypatch.setattr(experiment, 'train', fails)
  monkeypatch.setattr(step_times, 'measure_all', measure_all)
  methods = ['plain', 'hypergrid', 'hypergrid_lg']
  more = '--step_pairs=1'
  assert compare(tmp_path, token_dir, more, methods=methods) == 2
  assert timed == ['hypergrid']
  assert (tmp_path / 'compare.md').exists()


def test_a_signal_ends_it_without_a_table(tmp_path, token_dir, monkeypatch):
  monkeypatch.setattr(experiment, 'train', lambda *_, **__: None)
  assert compare(tmp_path, token_dir, methods=['plain']) == 0
  assert not (tmp_path / 'compare.md').exists()


def test_a_missing_plot_library_is_told_before_training(monkeypatch, capsys):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  monkeypatch.setattr(
    command, '_compare', lambda *_: pytest.fail('it has begun')
  )
  line = ['compare', scored.GIN_FILE, '--methods=plain', '--model_dir=d']
  assert main.main(line) == 2
  message = capsys.readouterr().err
  assert "pip install 'hypergrid_jax[plots]'" in message
  assert '--no_plot' in message


def test_the_plot_shows_every_method(tmp_path):
  pytest.importorskip('matplotlib', reason='the extra `plots`')
  from matplotlib.figure import Figure

  from tests.comparing.test_report import comparison

  drawn, spans = [], []
  save = Figure.savefig

  def record(self, *arguments, **options):
    (axes,) = self.axes
    assert [text.get_text() for text in self.legends[0].get_texts()] == [
      points.get_label() for points in axes.containers
    ]
    for points in axes.containers:
      (line, _, bars) = points
      (x,), (y,) = line.get_data()
      drawn.append((points.get_label(), x, y))
      if bars:
        spans.append(bars[0].get_segments()[0][:, 1].tolist())
    save(self, *arguments, **options)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(Figure, 'savefig', record)
    assert plot.draw(comparison(), tmp_path / 'p.png')
  # Trained parameters per task, and the mean of the average.
  assert drawn == [('plain', 750.0, 65.25), ('grid', 325.0, 75.75)]
  deviation = 1.5 / 2**0.5
  assert spans == [pytest.approx([75.75 - deviation, 75.75 + deviation])]
  assert (tmp_path / 'p.png').read_bytes()[:4] == b'\x89PNG'


@pytest.mark.parametrize(
  ('flag', 'message'),
  [
    ('--seeds=1,1', "'--seeds': '1,1', expected different whole numbers"),
    ('--seeds=-1', "'--seeds': '-1', expected different whole numbers"),
    ('--methods=hypergird', "Did you mean 'hypergrid'"),
    ('train.seed=3', 'the seeds are named by --seeds'),
  ],
)
def test_mistakes_on_the_command_line(flag, message, capsys):
  line = ['compare', scored.GIN_FILE, '--methods=plain', '--model_dir=d', flag]
  assert main.main(line) == 2
  assert message in capsys.readouterr().err

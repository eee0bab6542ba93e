"""Tasks of a user's own, from the file to predictions, mixed with ours."""

import io
import json
import pathlib
import subprocess
import sys

import pytest
from rich.console import Console

from hypergrid_jax.checkpoints import reader as reader_lib
from hypergrid_jax.config import run_config
from hypergrid_jax.errors import UserError
from hypergrid_jax.runs import experiment, setup
from tests.tasks.own_files import TOML, write_module, write_reviews

BINDINGS = (
  'data.batch_size=8',
  'data.row_length=64',
  'data.inputs_length=64',
  'data.vocabulary="bytes"',
  'T5Config.d_model=24',
  'T5Config.d_ff=32',
  'T5Config.num_layers=1',
  'T5Config.num_decoder_layers=1',
  'LinearWarmup.total_steps=200',
  'train.num_steps=3',
  'train.log_period=3',
  'train.checkpoint_period=3',
  'evaluate.limit=20',
  'evaluate.batch_size=8',
  'evaluate.max_decode_length=12',
  'evaluate.length_buckets=(64,)',
)
MIXTURE = "data.mixture=('reviews', 'first_word', 'glue_sst2')"


def configured(*more):
  return run_config.parse(['gin/runs/quickstart.gin'], [*BINDINGS, *more])


def train(run, directory):
  console = Console(file=io.StringIO(), width=120)
  result = experiment.train(
    run,
    directory,
    config_text=run_config.operative_config(run),
    console=console,
  )
  return result, console.file.getvalue()


def stores(directory):
  """Names of the token stores of a run, without the cached descriptions."""
  return {
    f'{path.parent.name}/{path.name}'
    for path in (directory / 'tokens').glob('[!.]*/*')
  }


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """A run that has ended; the module is described by a process of its own."""
  folder = tmp_path_factory.mktemp('own')
  reviews = write_reviews(folder, f"id = 'title'\n{TOML}")
  words = write_module(
    folder,
    name='words_of_a_run',
    more="seqio.MixtureRegistry.add('both', [('first_word', 3), ('glue_sst2',"
    " 1)])\nprint('noise of a module')\n",
  )
  run = configured(MIXTURE, f'data.task_files=({reviews!r}, {words!r})')
  result, text = train(run, folder / 'run')
  return folder, result, text


def test_own_tasks_train_evaluate_and_mix(finished):
  folder, result, text = finished
  assert list(result.tasks) == ['reviews', 'first_word', 'glue_sst2']
  assert result.tasks['reviews'].count == 2
  assert result.tasks['first_word'].metrics.keys() == {'accuracy'}
  facts = json.loads((folder / 'run' / 'run.json').read_text())
  tasks = facts['data']['tasks']
  assert [task['task'] for task in tasks] == list(result.tasks)
  assert [task['examples'] for task in tasks][:2] == [3, 40]
  assert 'first_word' in text


def test_own_tasks_are_in_the_averages_and_choose_the_best(finished):
  folder, result, _ = finished
  scores = result.scores
  mean = sum(task['accuracy'] for task in scores.values()) / 3
  assert result.averages['all'] == pytest.approx(mean)
  assert experiment.mean_score(result) == pytest.approx(mean)
  written = json.loads((folder / 'run' / 'eval' / '3.json').read_text())
  assert written['groups_per_average']['all'] == 3
  reader = reader_lib.CheckpointReader(folder / 'run')
  assert reader.best()[reader_lib.AVERAGE] == 3


def test_predictions_have_ids_and_targets(finished):
  folder, _, _ = finished

  def rows(task):
    path = folder / 'run' / 'predictions' / '3' / f'{task}.jsonl'
    return [json.loads(line) for line in path.read_text().splitlines()]

  assert [(row['id'], row['target']) for row in rows('reviews')] == [
    ('A song', 'positive'),
    ('A poem', 'negative'),
  ]
  assert rows('reviews')[0]['inputs'] == 'review: A song / It sings.'
  # Both files of the pattern, and postprocessed to lower case when scored.
  assert [(row['id'], row['target']) for row in rows('first_word')] == [
    (10, 'Alpha'),
    (11, 'Beta'),
    (20, 'Alpha'),
    (21, 'Beta'),
  ]
  assert rows('first_word')[3]['inputs'] == 'say: Beta 21 y'


def test_the_second_start_imports_no_tensorflow(finished):
  folder, _, _ = finished
  program = f"""
import io, json, sys
from rich.console import Console
from hypergrid_jax.config import run_config
from hypergrid_jax.runs import batches, setup as setup_lib
run = run_config.parse(
  [{str(folder / 'run' / 'config.gin')!r}],
  ['data.mixture=both', 'data.mixing=None'])
setup = setup_lib.set_up(
  run, {str(folder / 'run')!r}, console=Console(file=io.StringIO()), train=True
)
loader = batches.make_loader(setup.run, setup.corpus)
loader.batch(0)
rates = {{task['task']: task['rate'] for task in loader.summary(1)['tasks']}}
print(json.dumps([
  rates,
  setup.corpus.notes,
  sorted({{'tensorflow', 'seqio', 't5'}} & set(sys.modules)),
]))
"""
  done = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True, check=True
  )
  rates, notes, loaded = json.loads(done.stdout.strip().splitlines()[-1])
  assert rates == pytest.approx({'first_word': 0.75, 'glue_sst2': 0.25})
  assert notes == ['Tasks are mixed at the registered rates of both.']
  assert loaded == []


def set_up(folder, *more):
  run = run_config.parse([str(folder / 'run' / 'config.gin')], more)
  console = Console(file=io.StringIO())
  return setup.set_up(run, folder / 'run', console=console, train=True)


def test_stores_follow_rows_code_and_vocabulary(finished):
  folder, _, _ = finished
  before = stores(folder / 'run')
  assert len(before) == 6
  set_up(folder)
  assert stores(folder / 'run') == before

  def added(*more):
    known = stores(folder / 'run')
    set_up(folder, *more)
    return {name.partition('-')[0] for name in stores(folder / 'run') - known}

  toml = folder / 'reviews.toml'
  toml.write_text(toml.read_text().replace('review:', 'opinion:'))
  assert added() == {'reviews/train', 'reviews/validation'}
  with (folder / 'dev.tsv').open('a') as file:
    file.write('A hymn\tIt lasts.\t5\n')
  assert added() == {'reviews/validation'}
  with (folder / 'dev_2.txt').open('a') as file:
    file.write('Gamma 22 z\n')
  assert added() == {'first_word/validation'}
  assert len(added('data.vocabulary=sample')) == 6
  assert added() == set()


def test_old_code_makes_no_tokens_for_new_files(finished, monkeypatch):
  folder, _, _ = finished
  from hypergrid_jax.tasks.seqio import descriptions, module_files, registry

  registry.import_task_module(str(folder / 'words_of_a_run.py'))
  (file,) = (folder / 'run' / 'tokens' / '.modules').iterdir()
  kept = json.loads(file.read_text())['body']
  helper = folder / 'words_of_a_run_helper.py'
  assert str(helper) in kept['files']
  helper.write_text("PREFIX = 'tell: '\n")

  def ask(_):
    return {**kept, 'files': module_files.digests(kept['files'])}

  monkeypatch.setattr(descriptions, '_ask', ask)
  with pytest.raises(UserError, match='has changed since this process'):
    set_up(folder, 'data.mixture=first_word')


def test_only_own_tasks_without_validation_are_refused(tmp_path):
  toml = TOML.replace("validation = 'dev.tsv'\n", '')
  path = write_reviews(tmp_path, toml)
  run = configured('data.mixture=reviews', f'data.task_files=({path!r},)')
  with pytest.raises(UserError, match='has a validation split; there is noth'):
    train(run, tmp_path / 'run')
  assert not pathlib.Path(tmp_path / 'run').exists()

"""What each verb calls, with which run and which options."""

import json
import pathlib

import pytest

from hypergrid_jax.cli import main
from hypergrid_jax.config import run_config
from hypergrid_jax.inspection import task_pages, tokenization
from hypergrid_jax.prediction import files
from hypergrid_jax.runs import experiment
from hypergrid_jax.tasks import definitions
from tests.tasks import own_files

QUICKSTART = '--gin_file=gin/runs/quickstart.gin'
CALLED = {
  'train': (experiment, 'train'),
  'eval': (experiment, 'evaluate'),
  'predict': (files, 'predict_file'),
  'tokenize': (tokenization, 'tokenize'),
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)


@pytest.fixture
def called(monkeypatch):
  """Runs a verb; returns the run, directories and options of its call."""

  def run(verb, *arguments):
    calls = []

    def record(run, *directories, console, **options):
      calls.append((run, directories, options))

    monkeypatch.setattr(*CALLED[verb], record)
    assert main.main([verb, *arguments]) == 0
    (call,) = calls
    return call

  return run


@pytest.fixture
def run_directory(called):
  """The directory of a run that was configured but not trained."""
  _, _, options = called(
    'train', QUICKSTART, 'train.seed=6', '--task_file=own.toml'
  )
  path = pathlib.Path('d')
  path.mkdir()
  (path / 'config.gin').write_text(options['config_text'])
  (path / 'run.json').write_text(json.dumps({'identity': {}}))


def test_files_bindings_and_flags_make_the_run(called):
  run, directories, options = called(
    'train',
    'train.num_steps=5',
    QUICKSTART,
    '--gin.train.seed=3',
    *('--model_dir', 'here', '--data_source=files:d', '--vocab=v'),
    *('--token_dir=t', 'data.mixture=glue', '--fresh'),
  )
  assert (directories, options['fresh']) == (('here',), True)
  assert (run.train.num_steps, run.train.seed) == (5, 3)
  assert (run.data.source, run.data.vocabulary) == ('files:d', 'v')
  assert (run.data.token_dir, run.data.mixture) == ('t', 'glue')
  pathlib.Path('config.gin').write_text(options['config_text'])
  assert run_config.parse(['config.gin']) == run


def test_the_directory_is_named_after_the_last_file(called):
  pathlib.Path('mine.gin').write_text('train.seed = 4\n')
  run, directories, options = called(
    'train', QUICKSTART, '--gin_file', 'mine.gin'
  )
  assert directories == ('runs/mine',)
  assert run.train.seed == 4
  assert options['fresh'] is False


def test_task_files_may_be_several_and_take_the_place_of_gin_s(called):
  pathlib.Path('mine.gin').write_text(
    "include 'gin/runs/quickstart.gin'\ndata.task_files = ('old.toml',)\n"
  )
  flags = ['--task_file=a.toml', '--task_file=b.py']
  for more, expected in (([], ('old.toml',)), (flags, ('a.toml', 'b.py'))):
    run, _, _ = called('train', '--gin_file=mine.gin', *more)
    assert run.data.task_files == expected


EVAL = {'step': 'best', 'split': None, 'tasks': None, 'limit': None}
PREDICT = {'step': 'best', 'resume': False, 'overwrite': False}


@pytest.mark.parametrize(
  ('verb', 'arguments', 'expected'),
  [
    ('eval', '', EVAL),
    (
      'eval',
      '--step=20 --split=test --tasks=a,b --limit=7',
      {'step': 20, 'split': 'test', 'tasks': ('a', 'b'), 'limit': 7},
    ),
    ('eval', '--step=all', {**EVAL, 'step': 'all'}),
    ('eval', '--step best:glue_rte', {**EVAL, 'step': 'best:glue_rte'}),
    ('predict', '--input=i --output=o', PREDICT),
    (
      'predict',
      '--input i --output=o --step=20 --resume',
      {**PREDICT, 'step': 20, 'resume': True},
    ),
    (
      'predict',
      '--input=i --output=o --overwrite',
      {**PREDICT, 'overwrite': True},
    ),
  ],
)
@pytest.mark.usefixtures('run_directory')
def test_the_run_is_the_directory_s(called, verb, arguments, expected):
  words = ['--model_dir=d', *arguments.split()]
  run, directories, options = called(verb, *words)
  assert (run.train.seed, run.data.task_files) == (6, ('own.toml',))
  assert directories == (('d',) if verb == 'eval' else ('d', 'i', 'o'))
  assert options == expected
  run, _, _ = called(verb, *words, '--task_file=new.toml', 'train.seed=9')
  assert (run.train.seed, run.data.task_files) == (9, ('new.toml',))


def test_a_directory_without_a_run_is_refused(capsys):
  assert main.main(['eval', '--model_dir=nowhere']) == 2
  assert 'nowhere' in capsys.readouterr().err


def test_tokenize_has_the_run_of_train(called):
  arguments = [QUICKSTART, 'train.seed=8', '--token_dir=t']
  run, directories, _ = called('train', *arguments)
  assert called('tokenize', *arguments) == (run, directories, {'test': False})
  assert called('tokenize', *arguments, '--test', '--model_dir=here') == (
    run,
    ('here',),
    {'test': True},
  )


class TestTasks:
  @pytest.fixture
  def pages(self, monkeypatch):
    """What is asked of the pages, and whether `reviews` is a task then."""
    asked = []

    def page(*args, **options):
      options.pop('console', None)
      asked.append((args, options, 'reviews' in definitions.DEFINITIONS))
      return 'a table'

    for name in ('overview', 'show', 'check'):
      monkeypatch.setattr(task_pages, name, page)
    return asked

  @pytest.mark.parametrize(
    'arguments', [['list'], ['show', 'reviews'], ['check', 'reviews']]
  )
  def test_tasks_of_files_exist(self, pages, arguments):
    path = own_files.write_reviews(pathlib.Path('own'))
    main.main(['tasks', *arguments, f'--task_file={path}'])
    ((args, _, exists),) = pages
    assert (args, exists) == (tuple(arguments[1:]) or ('sample',), True)

  def test_a_file_is_checked_task_by_task(self, pages):
    path = own_files.write_reviews(pathlib.Path('own'))
    assert main.main(['tasks', 'check', path]) == 0
    ((args, _, exists),) = pages
    assert (args, exists) == (('reviews',), True)

  @pytest.mark.parametrize(
    ('arguments', 'expected'),
    [
      (['check'], {}),
      (['show'], {'split': None}),
      (['show', '--split=train'], {'split': 'train'}),
      (
        ['check', '--num=7', '--vocab=bytes'],
        {'num': 7, 'vocabulary': 'bytes'},
      ),
      (
        ['check', '--inputs_length=30', '--data_source=tfds', '--token_dir=t'],
        {'lengths': (30, 62), 'source': 'tfds', 'token_dir': 't'},
      ),
    ],
  )
  def test_a_page_is_asked_for_as_the_flags_say(
    self, pages, arguments, expected
  ):
    action, *more = arguments
    main.main(['tasks', action, 'glue_rte', *more])
    ((args, options, _),) = pages
    default = {
      'source': 'sample',
      'vocabulary': 'sample',
      'lengths': (512, 62),
      'token_dir': None,
      'num': 3,
    }
    assert (args, options) == (('glue_rte',), default | expected)

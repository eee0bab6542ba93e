"""What each verb calls, with which run and which options."""

import json
import os
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


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)


@pytest.fixture
def calls(monkeypatch):
  """Records what a verb calls, in place of training and evaluating."""
  recorded = []

  def record(name):
    def call(run, model_dir, **options):
      options.pop('console')
      recorded.append((name, run, model_dir, options))

    monkeypatch.setattr(experiment, name, call)

  record('train')
  record('evaluate')
  return recorded


@pytest.fixture
def model_dir(calls):
  """The directory of a run that was configured but not trained."""
  main.main(['train', QUICKSTART, 'train.seed=6', '--task_file=own.toml'])
  ((_, _, _, options),) = calls
  calls.clear()
  os.mkdir('d')
  pathlib.Path('d/config.gin').write_text(options['config_text'])
  pathlib.Path('d/run.json').write_text(json.dumps({'identity': {}}))
  return 'd'


class TestTrain:
  def test_files_bindings_and_flags_make_the_run(self, calls):
    code = main.main(
      [
        'train',
        'train.num_steps=5',
        QUICKSTART,
        '--gin.train.seed=3',
        '--model_dir',
        'here',
        '--data_source=files:d',
        '--vocab=v',
        '--token_dir=t',
        'data.mixture=glue',
        '--fresh',
      ]
    )
    assert code == 0
    ((name, run, model_dir, options),) = calls
    assert (name, model_dir, options['fresh']) == ('train', 'here', True)
    assert (run.train.num_steps, run.train.seed) == (5, 3)
    assert (run.data.source, run.data.vocabulary) == ('files:d', 'v')
    assert (run.data.token_dir, run.data.mixture) == ('t', 'glue')

  def test_config_text_is_the_run(self, calls):
    main.main(['train', QUICKSTART, 'train.num_steps=5'])
    ((_, run, _, options),) = calls
    pathlib.Path('config.gin').write_text(options['config_text'])
    assert run_config.parse(['config.gin']) == run
    assert options['fresh'] is False

  def test_the_directory_is_named_after_the_last_file(self, calls):
    pathlib.Path('mine.gin').write_text('train.seed = 4\n')
    main.main(['train', QUICKSTART, '--gin_file', 'mine.gin'])
    ((_, run, model_dir, _),) = calls
    assert model_dir == os.path.join('runs', 'mine')
    assert run.train.seed == 4

  def test_task_files_may_be_several_and_take_the_place_of_gin_s(self, calls):
    pathlib.Path('mine.gin').write_text(
      "include 'gin/runs/quickstart.gin'\ndata.task_files = ('old.toml',)\n"
    )
    main.main(['train', '--gin_file=mine.gin'])
    main.main(
      ['train', '--gin_file=mine.gin', '--task_file=a.toml', '--task_file=b.py']
    )
    assert [run.data.task_files for _, run, _, _ in calls] == [
      ('old.toml',),
      ('a.toml', 'b.py'),
    ]


class TestEval:
  def test_the_run_is_the_directory_s(self, calls, model_dir):
    assert main.main(['eval', f'--model_dir={model_dir}']) == 0
    ((name, run, directory, options),) = calls
    assert (name, directory, run.train.seed) == ('evaluate', 'd', 6)
    assert run.data.task_files == ('own.toml',)
    expected = {'step': 'best', 'split': None, 'tasks': None, 'limit': None}
    assert options == expected

  def test_flags_say_what_to_evaluate(self, calls, model_dir):
    arguments = ['--step=20', '--split=test', '--tasks=a, b', '--limit=7']
    main.main(
      ['eval', f'--model_dir={model_dir}', *arguments, 'evaluate.batch_size=5']
    )
    ((_, run, _, options),) = calls
    assert options == {
      'step': 20,
      'split': 'test',
      'tasks': ('a', 'b'),
      'limit': 7,
    }
    assert run.evaluate.batch_size == 5

  def test_all_steps(self, calls, model_dir):
    main.main(['eval', f'--model_dir={model_dir}', '--step=all'])
    assert calls[0][3]['step'] == 'all'

  def test_a_directory_without_a_run_is_refused(self, calls, capsys):
    assert main.main(['eval', '--model_dir=nowhere']) == 2
    assert 'nowhere' in capsys.readouterr().err
    assert not calls


class TestPredict:
  def test_the_run_is_the_directory_s(self, monkeypatch, model_dir):
    asked = []
    monkeypatch.setattr(
      files,
      'predict_file',
      lambda *args, console, **options: asked.append((args, options)),
    )
    arguments = [f'--model_dir={model_dir}', '--input=i', '--output=o']
    assert main.main(['predict', *arguments]) == 0
    (run, *places), options = asked.pop()
    assert (run.train.seed, run.data.task_files) == (6, ('own.toml',))
    assert places == ['d', 'i', 'o']
    assert options == {'step': 'best', 'resume': False, 'overwrite': False}
    more = ['--step=20', '--resume', '--task_file=new.toml', 'train.seed=9']
    main.main(['predict', *arguments, *more])
    (run, *_), options = asked.pop()
    assert (run.train.seed, run.data.task_files) == (9, ('new.toml',))
    assert options == {'step': 20, 'resume': True, 'overwrite': False}
    main.main(['predict', *arguments, '--overwrite'])
    assert asked.pop()[1]['overwrite']


class TestTokenize:
  def test_the_run_is_that_of_train(self, monkeypatch, calls):
    asked = []
    monkeypatch.setattr(
      tokenization,
      'tokenize',
      lambda *args, console, **options: asked.append((args, options)),
    )
    arguments = [QUICKSTART, 'train.seed=8', '--token_dir=t']
    for verb in ('train', 'tokenize'):
      assert main.main([verb, *arguments]) == 0
    assert asked.pop() == (calls[0][1:3], {'test': False})
    main.main(['tokenize', *arguments, '--test', '--model_dir=here'])
    assert asked == [((calls[0][1], 'here'), {'test': True})]


class TestTasks:
  @pytest.fixture
  def pages(self, monkeypatch):
    """What is asked of the pages, and the tasks that are known then."""
    asked = []

    def page(*args, **options):
      options.pop('console', None)
      known = 'reviews' in definitions.DEFINITIONS
      asked.append((args, options, known))
      return 'a table'

    for name in ('overview', 'show', 'check'):
      monkeypatch.setattr(task_pages, name, page)
    return asked

  def test_tasks_of_files_are_known(self, pages):
    flag = f'--task_file={own_files.write_reviews(pathlib.Path("own"))}'
    main.main(['tasks', 'list', flag])
    main.main(['tasks', 'show', 'reviews', flag])
    main.main(['tasks', 'check', 'reviews', flag])
    assert [(args, known) for args, _, known in pages] == [
      (('sample',), True),
      (('reviews',), True),
      (('reviews',), True),
    ]

  def test_pages_are_asked_for_as_the_flags_say(self, pages):
    main.main(['tasks', 'show', 'glue_rte'])
    main.main(['tasks', 'check', 'glue_rte'])
    given = ['--num=7', '--inputs_length=30', '--data_source=tfds']
    given += ['--vocab=bytes', '--token_dir=t']
    main.main(['tasks', 'check', 'glue_rte', *given])
    main.main(['tasks', 'show', 'glue_rte', *given, '--split=train'])
    default = {
      'source': 'sample',
      'vocabulary': 'sample',
      'lengths': (512, 62),
      'token_dir': None,
    }
    asked = {
      'source': 'tfds',
      'vocabulary': 'bytes',
      'lengths': (30, 62),
      'token_dir': 't',
      'num': 7,
    }
    assert [options for _, options, _ in pages] == [
      {**default, 'num': 3, 'split': None},
      {**default, 'num': 2},
      asked,
      {**asked, 'split': 'train'},
    ]

  def test_a_file_is_checked_task_by_task(self, pages):
    path = own_files.write_reviews(pathlib.Path('own'))
    assert main.main(['tasks', 'check', path]) == 0
    ((args, _, known),) = pages
    assert (args, known) == (('reviews',), True)

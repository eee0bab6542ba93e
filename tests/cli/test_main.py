"""The command: what it loads, what it says when refused, how it ends."""

import errno
import os
import pathlib
import subprocess
import sys

import pytest

from hypergrid_jax.cli import main
from hypergrid_jax.errors import UserError
from hypergrid_jax.runs import experiment

ROOT = pathlib.Path(__file__).parents[2]
QUICKSTART = '--gin_file=gin/runs/quickstart.gin'
HEAVY = (
  'jax',
  'flax',
  'numpy',
  'tensorflow',
  'seqio',
  't5',
  'gin',
  'rich',
  'sentencepiece',
)
VERBS = (
  (),
  ('train',),
  ('eval',),
  ('predict',),
  ('tokenize',),
  ('tasks',),
  ('tasks', 'list'),
  ('tasks', 'show'),
  ('tasks', 'check'),
  ('doctor',),
)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)


@pytest.fixture
def refused(capsys):
  """Runs the command and returns its one message; exit code 2."""

  def run(*arguments):
    assert main.main(arguments) == 2
    captured = capsys.readouterr()
    assert 'Traceback' not in captured.err
    assert captured.err.startswith('hypergrid: ')
    return captured.err

  return run


def raising(error):
  def call(*args, **kwargs):
    raise error

  return call


class TestHelp:
  @pytest.mark.parametrize('verb', VERBS, ids='_'.join)
  def test_it_loads_nothing_heavy_and_has_an_example(self, verb):
    program = (
      'import sys\n'
      'from hypergrid_jax import cli\n'
      'try:\n'
      f'  cli.main({[*verb, "--help"]!r})\n'
      'except SystemExit as end:\n'
      '  assert end.code == 0\n'
      f'loaded = [name for name in {HEAVY!r} if name in sys.modules]\n'
      "print('LOADED', loaded)"
    )
    done = subprocess.run(
      [sys.executable, '-c', program],
      capture_output=True,
      text=True,
      check=True,
      cwd=ROOT,
    )
    assert 'LOADED []' in done.stdout
    assert f'example:\n  {" ".join(("hypergrid", *verb[:1]))}' in done.stdout

  def test_verbs_that_do_not_exist_yet_are_absent(self, capsys):
    with pytest.raises(SystemExit):
      main.main(['--help'])
    assert '{' not in capsys.readouterr().out


class TestMistakes:
  @pytest.mark.parametrize(
    ('arguments', 'fragments'),
    [
      ((), ['VERB']),
      (('trian',), ["'trian'", "Did you mean 'train'"]),
      (('tasks', 'shw'), ["'shw'", "'show'"]),
      (('train',), ['--gin_file']),
      (('eval',), ['--model_dir']),
      (('train', QUICKSTART, '--model_dri=x'), ["'--model_dir'"]),
      (('train', QUICKSTART, '--freshh'), ["'--fresh'"]),
      (('train', QUICKSTART, 'word'), ['word', 'NAME=VALUE']),
      (('train', QUICKSTART, '--gin.train.seed', '5'), ['in one piece']),
      (('doctor', 'train.seed=5'), ['train.seed=5', 'a flag']),
      (('eval', '--model_dir=x', '--step=last'), ["'last'"]),
      (('eval', '--model_dir=x', '--limit=0'), ["'0'"]),
      (('predict', '--model_dir=x', '--input=i'), ['--output']),
      (('tokenize',), ['--gin_file']),
      (('tasks', 'check'), ['FILE']),
      (('tasks', 'check', 'glue_rte', '--num=none'), ["'none'"]),
      (
        ('tasks', 'show', 'glue_rte', '--targets_length=1'),
        ['targets_length is 1', 'at least 2'],
      ),
      (('train', '--gin_file=quickstart.gi'), ['quickstart.gi: no such']),
      (
        ('train', '--gin_file=gin/runs/quikstart.gin'),
        ["'gin/runs/quickstart.gin'"],
      ),
      (
        ('train', QUICKSTART, 'train.nm_steps=5'),
        ['train.nm_steps=5', "'num_steps'"],
      ),
      (
        ('train', QUICKSTART, '--gin.train.num_steps=five'),
        ["got 'five'", 'expected an integer'],
      ),
      (('tasks', 'show', 'glue_sst'), ["'glue_sst'", "'glue_sst2'"]),
      (
        ('tasks', 'show', 'glue_sst2', '--split=valid'),
        ["no split 'valid'", 'validation'],
      ),
      (('tasks', 'list', '--data_source=smaple'), ["'sample'"]),
      (('tasks', 'list', '--data_source=files:no'), ['no', 'not a directory']),
    ],
  )
  def test_one_message_and_exit_code_2(self, refused, arguments, fragments):
    message = refused(*arguments)
    for fragment in fragments:
      assert fragment in message

  @pytest.mark.parametrize(
    ('line', 'fragment'),
    [
      ('train.nm_steps = 5', "no field 'nm_steps'. Did you mean 'num_steps'"),
      ("train.num_steps = '5'", "got '5', expected an integer"),
      ("include 'no.gin'", 'no.gin: no such gin file'),
      ('train.num_steps 5', 'not gin'),
    ],
  )
  def test_a_wrong_line_is_given_with_its_file(self, refused, line, fragment):
    pathlib.Path('x.gin').write_text(
      f"include 'gin/runs/quickstart.gin'\n\n{line}\n"
    )
    message = refused('train', '--gin_file=x.gin')
    assert message.startswith('hypergrid: x.gin:3: ')
    assert fragment in message

  def test_a_vocabulary_that_is_not_one_is_refused(self, refused):
    pathlib.Path('v.model').write_text('no SentencePiece model\n')
    message = refused('tasks', 'show', 'glue_sst2', '--vocab=v.model')
    assert 'v.model' in message

  def test_a_split_without_a_file_is_refused(self, refused):
    os.makedirs('d/glue/sst2')
    message = refused('tasks', 'show', 'glue_sst2', '--data_source=files:d')
    assert 'files:d has no split of glue_sst2' in message

  @pytest.mark.slow
  @pytest.mark.parametrize(
    ('rows', 'fragments'),
    [
      (
        ['{"sentence": "a", "label": 1, "idx": 0}', '{"sentence": "b"}'],
        ['validation.jsonl:2', "'label'"],
      ),
      ([], ['validation.jsonl', 'no rows']),
    ],
    ids=['a row without a field', 'an empty split'],
  )
  def test_bad_rows_are_named(self, refused, rows, fragments):
    os.makedirs('d/glue/sst2')
    path = pathlib.Path('d/glue/sst2/validation.jsonl')
    path.write_text('\n'.join(rows))
    message = refused(
      'tasks', 'show', 'glue_sst2', '--data_source=files:d', '--token_dir=t'
    )
    for fragment in fragments:
      assert fragment in message
    assert not list(pathlib.Path('.').rglob('t/**/*.npy'))


class TestExitCodes:
  @pytest.mark.parametrize(
    ('error', 'fragments'),
    [
      (UserError('x/run.json: another run'), ['x/run.json: another run']),
      (
        OSError(errno.ENOSPC, 'No space left on device', 'ckpt/5'),
        ['ckpt/5: no space left', 'free some space'],
      ),
      (OSError(errno.EDQUOT, 'Quota exceeded'), ['no space left']),
      (
        PermissionError(errno.EACCES, 'Permission denied', '/root/x'),
        ['/root/x: Permission denied'],
      ),
    ],
  )
  def test_2_for_what_the_user_can_mend(
    self, monkeypatch, refused, error, fragments
  ):
    monkeypatch.setattr(experiment, 'train', raising(error))
    message = refused('train', QUICKSTART)
    for fragment in fragments:
      assert fragment in message

  def test_2_also_when_another_error_was_raised_from_it(
    self, monkeypatch, refused
  ):
    error = RuntimeError('a worker failed')
    error.__cause__ = UserError('rows.jsonl:3: no field')
    monkeypatch.setattr(experiment, 'train', raising(error))
    assert 'rows.jsonl:3: no field' in refused('train', QUICKSTART)

  @pytest.mark.parametrize('error', [ValueError('ours'), OSError(5, 'io')])
  def test_anything_else_keeps_its_traceback(self, monkeypatch, error):
    monkeypatch.setattr(experiment, 'train', raising(error))
    with pytest.raises(type(error)):
      main.main(['train', QUICKSTART])

  def test_130_after_ctrl_c(self, monkeypatch, capsys):
    monkeypatch.setattr(experiment, 'train', raising(KeyboardInterrupt))
    assert main.main(['train', QUICKSTART]) == 130
    assert 'Traceback' not in capsys.readouterr().err

  def test_the_process_exits_with_them(self):
    command = [sys.executable, '-m', 'hypergrid_jax', 'tasks', 'shw']
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ''
    assert done.stderr.startswith('hypergrid: ')

  def test_the_version(self, capsys):
    with pytest.raises(SystemExit) as end:
      main.main(['--version'])
    assert end.value.code == 0
    assert capsys.readouterr().out.count('.') == 2

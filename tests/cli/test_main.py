"""The command: what it loads, what it says when refused, how it ends."""

import errno
import os
import pathlib
import subprocess
import sys

import pytest

from hypergrid_jax.cli import flags, main
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
  *('', 'train', 'eval', 'compare', 'predict', 'tokenize', 'precompile'),
  *('doctor', 'tasks', 'tasks list', 'tasks show', 'tasks check'),
  *('import', 'export', 'edit'),
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
  @pytest.mark.parametrize('verb', VERBS)
  def test_every_verb_has_an_example(self, capsys, verb):
    assert main.main([*verb.split(), '--help']) == 0
    text = capsys.readouterr().out
    assert f'  example:\n    hypergrid {verb}' in text

  def test_it_loads_nothing_heavy(self):
    program = (
      'import sys\n'
      'from hypergrid_jax.cli import main\n'
      f'for verb in {VERBS!r}:\n'
      '  assert main.main([*verb.split(), "--help"]) == 0\n'
      f'loaded = [name for name in {HEAVY!r} if name in sys.modules]\n'
      "print('LOADED', loaded)"
    )
    command = [sys.executable, '-c', program]
    done = subprocess.run(
      command, capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert 'LOADED []' in done.stdout

  def test_a_flag_has_its_line_of_the_docstring(self, capsys):
    app = flags.make_app('Text.')

    @flags.verb(app, 'one')
    def one(*, from_: flags.Name, count: flags.Count = 3) -> int:
      """Do one thing.

      Flags:
        from_: the beginning, which
          takes two lines.
        count: how often.

      Example:
        command one --from=here
      """
      return count + len(from_)

    @flags.verb(app, 'other')
    def _other() -> None:
      """Do another thing."""

    def run(*words):
      return app(words, standalone_mode=False)

    assert run('one', '--from=abcd') == 7
    assert run('one', '--from', 'abcd', '--count', '2') == 6
    assert run('other') == 0
    run('one', '--help')
    text = ' '.join(capsys.readouterr().out.split())
    assert '--from NAME The beginning, which takes two lines. [req' in text
    assert '--count N How often. [default: 3; x>=1]' in text
    assert text.endswith('example: command one --from=here')


class TestMistakes:
  @pytest.mark.parametrize(
    ('arguments', 'fragments'),
    [
      ((), ['Missing command', 'hypergrid --help']),
      (('trian',), ["'trian'", "Did you mean 'train'? See hypergrid --help"]),
      (('tasks', 'shw'), ["'shw'", "'show'", 'hypergrid tasks --help']),
      (('train',), ['--gin_file']),
      (('train', '--gin_file'), ["'--gin_file' requires an argument"]),
      (('train', QUICKSTART, '--model_dir', '--fresh'), ['--fresh: expected']),
      (('eval',), ['--model_dir']),
      (('train', QUICKSTART, '--model_dri=x'), ['--model_dri', '--model_dir']),
      (('train', QUICKSTART, '--freshh'), ['--freshh', '--fresh)']),
      (('train', QUICKSTART, '--fresh=1'), ["'--fresh' does not take a value"]),
      (('train', QUICKSTART, 'word'), ["'word'", 'NAME=VALUE']),
      (('train', QUICKSTART, '--gin.train.seed', '5'), ['in one piece']),
      (('doctor', 'train.seed=5'), ['train.seed=5']),
      (('eval', '--model_dir=x', '--step=last'), ["'--step': 'last'"]),
      (('eval', '--model_dir=x', '--step=1.5'), ["'--step': '1.5'"]),
      (('eval', '--model_dir=x', '--limit=0'), ["'--limit'", 'equal to 1']),
      (('predict', '--model_dir=x', '--input=i'), ['--output']),
      (('predict', '--model_dir=x', '--step=all'), ["'--step': 'all'"]),
      (('compare', QUICKSTART, '--methods=a', '--seeds=1,1'), ["'--seeds'"]),
      (('compare', QUICKSTART, '--methods=a', '--seeds=a'), ["'--seeds'"]),
      (('export', '--model_dir=x', '--max_shard_size=5'), ['--output']),
      (('export', '--model_dir=x', '--max_shard_size=5XB'), ["'5XB'"]),
      (('precompile', QUICKSTART, '--program=tran'), ["'train', 'decode'"]),
      (('tasks', 'check'), ["'TASK'"]),
      (('tasks', 'check', 'glue_rte', '--num=none'), ["'--num'", 'integer']),
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

  def test_a_split_without_a_file_is_refused(self, refused):
    os.makedirs('d/glue/sst2')
    message = refused('tasks', 'show', 'glue_sst2', '--data_source=files:d')
    assert 'files:d has no split of glue_sst2' in message


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
    assert capsys.readouterr().err == '\nInterrupted.\n'

  def test_the_process_exits_with_them(self):
    command = [sys.executable, '-m', 'hypergrid_jax', 'tasks', 'shw']
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ''
    assert done.stderr.startswith('hypergrid: ')

  def test_a_reader_that_leaves_gets_no_traceback(self):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
      [sys.executable, '-m', 'hypergrid_jax', '--help'],
      stdout=writer,
      stderr=subprocess.PIPE,
      text=True,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, '')

  def test_the_version(self, capsys):
    assert main.main(['--version']) == 0
    assert capsys.readouterr().out.count('.') == 2

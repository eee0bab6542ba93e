"""Tasks and mixtures of a user's module: what is known of them, and when.

The process that describes a module is replaced by a call.
"""

import logging

import pytest

from hypergrid_jax.errors import UserError
from hypergrid_jax.tasks import definitions, task_files
from hypergrid_jax.tasks.catalogue import mixtures
from hypergrid_jax.tasks.seqio import descriptions
from tests.tasks.own_files import MIXTURES, write_module

pytestmark = pytest.mark.usefixtures('asked')


def problem_of(tmp_path, more, task='bad'):
  """Why a task of a module cannot be used."""
  task_files.load([write_module(tmp_path, more=more)])
  with pytest.raises(UserError) as error:
    definitions.definition(task)
  return str(error.value).replace(f'{tmp_path}/', '')


def test_a_module_makes_tasks_known(tmp_path):
  path = write_module(tmp_path)
  assert task_files.load([path, path]) == ('first_word',)
  task = definitions.definition('first_word')
  assert task.benchmark == 'seqio'
  assert task.splits == ('train', 'validation')
  assert task.trained_as == task.group == 'first_word'
  assert task.task_file == path
  assert task.rows.place.startswith(f'{path}:')
  assert task.rows.splits()['validation'] == (
    f'{tmp_path}/dev_1.txt, {tmp_path}/dev_2.txt'
  )


def test_a_module_by_its_dotted_name(tmp_path, monkeypatch):
  write_module(tmp_path, name='dotted_words')
  monkeypatch.syspath_prepend(tmp_path)
  assert task_files.load(['dotted_words']) == ('first_word',)
  assert definitions.definition('first_word').task_file == 'dotted_words'


@pytest.mark.parametrize(
  ('splits', 'expected'),
  [
    (('train', 'validation', 'test'), ('train', 'validation', 'test')),
    (('test', 'dev', 'train'), ('train', 'dev', 'test')),
    (
      ('validation_b', 'validation_a', 'test_c'),
      (None, 'validation_b', 'test_c'),
    ),
    (('train', 'unsupervised'), ('train', None, None)),
    (('validation_b', 'validation'), (None, 'validation', None)),
  ],
)
def test_which_splits_are_for_what(splits, expected):
  assert descriptions._splits(dict.fromkeys(splits)) == expected


class TestDescriptions:
  """A description is kept as long as it holds."""

  def load(self, path, cache):
    task_files.load([path], cache=cache)
    return definitions.definition('first_word').rows.code

  def test_an_unchanged_module_is_not_imported_again(self, tmp_path, asked):
    path = write_module(tmp_path)
    first = self.load(path, tmp_path / 'tokens')
    definitions.DEFINITIONS.pop('first_word')
    assert self.load(path, tmp_path / 'tokens') == first
    assert asked == [(path,)]
    assert self.load(path, None) == first
    assert len(asked) == 2

  def test_a_changed_file_makes_another(self, tmp_path, asked):
    path = write_module(tmp_path)
    codes = {self.load(path, tmp_path / 'tokens')}
    write_module(tmp_path, prefix='tell: ')  # a file that the module imports
    codes.add(self.load(path, tmp_path / 'tokens'))
    write_module(tmp_path, prefix='tell: ', more='# a remark\n')
    codes.add(self.load(path, tmp_path / 'tokens'))
    assert len(codes) == len(asked) == 3

  def test_another_seqio_makes_another(self, tmp_path, asked, monkeypatch):
    path = write_module(tmp_path)
    first = self.load(path, tmp_path / 'tokens')
    version = descriptions.metadata.version
    monkeypatch.setattr(
      descriptions.metadata,
      'version',
      lambda name: 'new' if name == 'seqio' else version(name),
    )
    assert self.load(path, tmp_path / 'tokens') != first
    assert len(asked) == 2

  @pytest.mark.parametrize('damage', ['cut', 'flip', 'empty', 'list'])
  def test_a_damaged_one_is_made_again(self, tmp_path, asked, caplog, damage):
    path = write_module(tmp_path)
    first = self.load(path, tmp_path / 'tokens')
    (file,) = (tmp_path / 'tokens' / '.modules').iterdir()
    text = file.read_text()
    changed = {
      'cut': text[: len(text) // 2],
      'flip': text.replace('first_word', 'first_ward', 1),
      'empty': '',
      'list': '[]',
    }
    file.write_text(changed[damage])
    with caplog.at_level(logging.WARNING):
      assert self.load(path, tmp_path / 'tokens') == first
    assert f'{file} is damaged and is made again' in caplog.text
    assert file.read_text() == text
    assert len(asked) == 2

  def test_where_it_cannot_be_kept_the_module_serves_still(
    self, tmp_path, asked, caplog
  ):
    (tmp_path / 'tokens').write_text('a file in the way')
    self.load(write_module(tmp_path), tmp_path / 'tokens')
    assert 'cannot be written' in caplog.text


class TestProblems:
  """Tasks that cannot be used say so when they are named."""

  ADD = (
    "seqio.TaskRegistry.add('bad', preprocessors=[], **{{\n"
    "  'source': seqio.TextLineDataSource({{'train': 'x'}}),\n"
    "  'output_features': FEATURES, {}}})\n"
  )

  @pytest.mark.parametrize(
    ('values', 'message'),
    [
      (
        "'output_features': {'targets': FEATURES['targets']}",
        "it has no output feature 'inputs' of token ids and rank 1, which a"
        ' text-to-text model needs. Its features are targets.',
      ),
      (
        "'output_features': {**FEATURES, 'inputs':"
        ' seqio.ContinuousFeature(dtype=tf.float32, rank=2)}',
        "it has no output feature 'inputs' of token ids",
      ),
      (
        "'metric_fns': [lambda targets, scores: {}]",
        'its metric functions <lambda> take scores or auxiliary values',
      ),
      (
        "'metric_fns': [metrics.accuracy, metrics.rank_classification]",
        'its metric functions rank_classification take scores',
      ),
      (
        "'metric_fns': [lambda a, b: {}]",
        'Metric functions must have positional arguments matching',
      ),
      ("'metric_objs': [object()]", 'it has metric objects (metric_objs)'),
      (
        "'preprocessors': [seqio.CacheDatasetPlaceholder(required=True)]",
        "it requires seqio's own cache",
      ),
      (
        "'source': seqio.FunctionDataSource("
        'lambda split, shuffle_files: None, splits=())',
        'its source has no splits',
      ),
      (
        "'source': type('Odd', (seqio.FunctionDataSource,),"
        " {'num_input_examples': lambda self, split: 1 / 0})("
        "lambda split, shuffle_files: None, splits=('train',))",
        'it fails: ZeroDivisionError: division by zero',
      ),
      (
        "'source': seqio.TfdsDataSource('no_such/data:1.0.0', '/nowhere')",
        'TFDS data no_such/data:1.0.0 are not prepared in /nowhere',
      ),
    ],
  )
  def test_they_are_told(self, tmp_path, values, message):
    add = self.ADD.replace('preprocessors=[], ', '').format(values)
    found = problem_of(tmp_path, add)
    assert found.startswith('Task bad of own_words.py:')
    assert message in found
    # The module's other task is none the worse.
    assert definitions.definition('first_word').name == 'first_word'

  def test_a_name_that_comes_close(self, tmp_path):
    assert "Did you mean 'first_word'" in problem_of(tmp_path, '', 'first_wrd')


BROKEN = {
  'syntax': ('x = (', r'own_words.py:\d+: SyntaxError'),
  'name': ('undefined_name', r'own_words.py:\d+: NameError: name .undefined'),
  'helper': ('import not_there', r'own_words.py:\d+: ModuleNotFoundError'),
  'inside seqio': (
    "seqio.MixtureRegistry.add('m', ['no_such_task'], default_rate=1)",
    r'own_words.py:\d+: ValueError: Provider name not registered: no_such',
  ),
  'twice': (
    "seqio.TaskRegistry.add_provider('first_word',"
    " seqio.TaskRegistry.get('first_word'))",
    r'ValueError: Attempting to register duplicate provider: first_word\.?'
    r' Choose another name',
  ),
  'name of ours': (
    "seqio.TaskRegistry.add_provider('glue_sst2',"
    " seqio.TaskRegistry.get('first_word'))",
    'duplicate provider: glue_sst2',
  ),
  'exit': ('raise SystemExit(3)', r'own_words.py:\d+: SystemExit: 3'),
  'relative': ('from . import x', 'A file of a package is named with dots'),
}


@pytest.mark.parametrize('case', BROKEN)
def test_a_module_that_breaks_is_told_by_line(tmp_path, case):
  more, message = BROKEN[case]
  path = write_module(tmp_path, more=f'{more}\n')
  with pytest.raises(UserError, match=message) as error:
    task_files.load([path])
  assert str(error.value).startswith(f'Task module {path} cannot be imported: ')
  # What it registered before is gone, so that it can be mended and loaded.
  write_module(tmp_path)
  assert task_files.load([path]) == ('first_word',)


def test_a_module_without_tasks(tmp_path):
  (tmp_path / 'nothing.py').write_text('import seqio\n')
  with pytest.raises(UserError, match='registers no task with seqio'):
    task_files.load([str(tmp_path / 'nothing.py')])


class TestNames:
  """A name means one task, wherever it is registered."""

  def test_two_modules_with_one_task(self, tmp_path):
    one = write_module(tmp_path / 'one')
    two = write_module(tmp_path / 'two')
    task_files.load([one])
    with pytest.raises(UserError) as error:
      task_files.load([two])
    assert str(error.value) == (
      f"{two}: the name 'first_word' belongs to a task of {one}. Choose another"
      ' name.'
    )

  def test_a_module_that_another_one_imports_is_no_clash(self, tmp_path):
    one = write_module(tmp_path, more=MIXTURES)
    (tmp_path / 'both.py').write_text('import own_words\n')
    assert task_files.load([one]) == ('first_word',)
    both = str(tmp_path / 'both.py')
    assert task_files.load([both, one]) == ('first_word',)
    assert definitions.definition('first_word').task_file == one
    assert mixtures.mixture('plain').task_file == one

  def test_two_modules_with_one_mixture(self, tmp_path):
    path = write_module(tmp_path, more=MIXTURES)
    task_files.load([path])
    other = tmp_path / 'other.py'
    other.write_text(
      "import seqio\nseqio.MixtureRegistry.add('plain', [('glue_rte', 1)])\n"
    )
    with pytest.raises(UserError, match="'plain' belongs to a mixture of"):
      task_files.load([str(other)])

"""Mixtures of a user's module, and what this process has registered itself."""

import functools
import pathlib

import pytest
import seqio

from hypergrid_jax.errors import UserError
from hypergrid_jax.tasks import definitions, task_files
from hypergrid_jax.tasks.catalogue import mixtures
from hypergrid_jax.tasks.seqio import function_code, module_files, registry
from tests.tasks.own_files import MIXTURES, write_module

pytestmark = pytest.mark.usefixtures('asked')


class TestMixtures:
  """Registered rates, as numbers or computed, nested or not."""

  @pytest.fixture(autouse=True)
  def _loaded(self, tmp_path, asked):
    self.path = write_module(tmp_path, more=MIXTURES)
    self.cache = tmp_path / 'tokens'
    task_files.load([self.path], cache=self.cache)
    self.asked = asked

  def rates(self, name, **sizes):
    return dict(mixtures.mixture(name).rates(sizes))

  def test_tasks_of_a_mixture(self):
    assert mixtures.mixture('nested').tasks == (
      'first_word',
      'glue_rte',
      'glue_sst2',
    )
    assert (
      mixtures.mixture('nested').trained == mixtures.mixture('nested').tasks
    )

  def test_numbers(self):
    assert self.rates('plain') == {'first_word': 3.0, 'glue_sst2': 1.0}
    assert len(self.asked) == 1

  def test_functions_of_the_number_of_examples(self):
    sizes = {'first_word': 40, 'glue_sst2': 67}
    assert self.rates('counted', **sizes) == {'first_word': 40, 'glue_sst2': 50}
    assert self.rates('cached', **sizes) == {'first_word': 20.0}
    # A task that is not trained on has no examples.
    assert self.rates('counted', first_word=9) == {
      'first_word': 9.0,
      'glue_sst2': 0.0,
    }

  def test_rates_of_mixtures_inside(self):
    found = self.rates('nested', first_word=30, glue_sst2=900, glue_rte=7)
    assert found == {'first_word': 3.0, 'glue_sst2': 5.0, 'glue_rte': 2.0}
    assert self.rates('nested', glue_rte=7) == {
      'first_word': 0.0,
      'glue_sst2': 0.0,
      'glue_rte': 2.0,
    }

  def test_computed_rates_are_kept_for_the_same_examples(self):
    for count in (40, 40, 41):
      assert self.rates('counted', first_word=count)['first_word'] == count
    assert len(self.asked) == 3
    (file,) = (self.cache / '.modules').glob('*counted*')
    file.write_text('damaged')
    assert self.rates('counted', first_word=41)['first_word'] == 41


@pytest.mark.parametrize(
  ('rate', 'message'),
  [
    ('lambda task: 1 / 0', 'ZeroDivisionError: division by zero'),
    (
      "lambda task: task.get_cached_stats('train')['chars']",
      "KeyError: 'chars'",
    ),
    ('lambda task: -1', 'ValueError: -1.0 is no rate'),
    ('-2', 'ValueError: -2.0 is no rate'),
    ('lambda task: float("nan")', 'ValueError: nan is no rate'),
  ],
)
def test_rates_that_cannot_be_computed(tmp_path, rate, message):
  more = f"seqio.MixtureRegistry.add('odd', [('first_word', {rate})])\n"
  task_files.load([write_module(tmp_path, more=more)])
  rates = mixtures.mixture('odd').rates
  with pytest.raises(UserError) as error:
    rates({})
  assert 'Mixture odd: the rate of first_word cannot be computed' in str(
    error.value
  )
  assert message in str(error.value)


class TestThisProcess:
  """Tasks and mixtures that this process has registered need no file."""

  @pytest.fixture(autouse=True)
  def _imported(self, tmp_path, asked):
    self.path = write_module(tmp_path, more=MIXTURES)
    registry.import_task_module(self.path)
    self.folder = tmp_path

  def test_they_are_known_by_name(self):
    task = definitions.definition('first_word')
    assert (task.task_file, task.splits) == (None, ('train', 'validation'))
    mixture = mixtures.mixture('counted')
    assert mixture.tasks == ('first_word', 'glue_sst2')
    assert mixture.rates({'first_word': 9})['first_word'] == 9
    count = seqio.TaskRegistry.get('first_word').num_input_examples('train')
    assert count is None  # the function of the class is back

  def test_their_code_is_followed(self, fresh_process):
    def code(**changes):
      fresh_process(self.folder)
      registry.import_task_module(
        write_module(self.folder, **{'more': MIXTURES, **changes})
      )
      return definitions.definition('first_word').rows.code

    codes = {code(), code(prefix='other: '), code(more=f'{MIXTURES}#\n')}
    assert len(codes) == 3
    assert code() in codes

  def test_code_that_is_older_than_its_files_is_not_used(self):
    definitions.definition('first_word')
    write_module(self.folder, prefix='other: ', more=MIXTURES)
    with pytest.raises(UserError, match='first_word: its code has changed'):
      definitions.definition('first_word')

  def test_a_task_registered_anew_is_described_anew(self):
    assert 'validation' in definitions.definition('first_word').rows.parts
    old = seqio.TaskRegistry.get('first_word')
    seqio.TaskRegistry.remove('first_word')
    source = seqio.TextLineDataSource({'train': f'{self.folder}/lines.txt'})
    seqio.TaskRegistry.add_provider('first_word', old.replace(source=source))
    assert definitions.definition('first_word').splits == ('train',)

  def test_a_module_that_is_imported_already_can_be_named(self, asked):
    # Another process describes it; this one has it by another name.
    assert task_files.load([self.path]) == ('first_word',)
    assert definitions.definition('first_word').task_file == self.path
    module = module_files.loaded(pathlib.Path(self.path))
    assert registry.import_task_module(self.path) is module
    assert len(asked) == 1

  def test_a_module_that_has_changed_is_not_used(self):
    write_module(self.folder, prefix='other: ', more=MIXTURES)
    with pytest.raises(UserError, match='has changed since this process'):
      registry.import_task_module(self.path)


def test_functions_of_a_notebook_are_followed():
  def make(prefix, number=1):
    names = {'prefix': prefix}
    exec(  # noqa: S102
      'def shown(x):\n  def inner(y):\n    return prefix + x + y\n'
      '  return inner\n',
      names,
    )
    inner = names['shown']('x')
    return function_code.fingerprint(
      [functools.partial(inner, number), [number, {'a': prefix}]]
    )

  marks = {make('a'), make('b'), make('a', 2)}
  assert len(marks) == 3
  assert make('a') in marks

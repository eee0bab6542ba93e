import dataclasses
import re
import string

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from hypergrid_jax.config import run_config
from hypergrid_jax.config.run_config import parse
from hypergrid_jax.errors import UserError

MODEL = """
T5Config.d_model = 12
T5Config.d_ff = 20
T5Config.num_heads = 3
T5Config.d_kv = 5
T5Config.num_layers = 2
T5Config.num_decoder_layers = 1
"""
RUN = f"""{MODEL}
data.mixture = 'glue'
train.num_steps = 7
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
  """The working directory is empty, and not the checkout."""
  monkeypatch.chdir(tmp_path)


def write(text, name='run.gin'):
  with open(name, 'w', encoding='utf-8') as file:
    file.write(text)
  return name


def run_of(text, *bindings, **flags):
  return parse([write(text)], bindings, flags)


def refusal(text, *bindings, **flags):
  with pytest.raises(UserError) as error:
    run_of(text, *bindings, **flags)
  return str(error.value)


class TestValues:
  def test_what_is_not_set_has_the_dataclass_default(self):
    run = run_of(RUN)
    assert run.train.num_steps == 7
    assert run.train.seed == 0
    assert run.method is None
    assert type(run.optimizer).__name__ == 'Adafactor'
    assert type(run.schedule).__name__ == 'Constant'

  def test_the_last_value_wins_files_bindings_flags(self):
    text = RUN + "train.num_steps = 8\ndata.source = 'tfds'\n"
    assert run_of(text).train.num_steps == 8
    run = run_of(text, 'train.num_steps=9', 'data.source=sample')
    assert (run.train.num_steps, run.data.source) == (9, 'sample')
    run = run_of(text, 'data.source=sample', data_source='files:here')
    assert run.data.source == 'files:here'
    assert run_of(text, data_source=None).data.source == 'tfds'

  def test_a_later_file_wins(self):
    first, second = write(RUN), write('train.num_steps = 11', 'second.gin')
    assert parse([first, second]).train.num_steps == 11
    assert parse([second, first]).train.num_steps == 7

  def test_a_repeated_flag_is_a_tuple_in_place_of_the_file_s(self):
    text = RUN + "data.task_files = ('old.toml', 'older.toml')\n"
    assert run_of(text).data.task_files == ('old.toml', 'older.toml')
    run = run_of(text, task_file=['a.toml', 'b.py'])
    assert run.data.task_files == ('a.toml', 'b.py')
    message = refusal(RUN, task_file=['a.toml', ''])
    assert message.startswith('--task_file=a.toml --task_file=: ')

  def test_flags_set_what_they_are_short_for(self):
    run = run_of(RUN, data_source='tfds', vocab='5', token_dir='1e3')
    assert run.data.source == 'tfds'
    assert run.data.vocabulary == '5'  # a string, whatever it looks like
    assert run.data.token_dir == '1e3'

  @pytest.mark.parametrize(
    ('text', 'value'),
    [
      ('glue', 'glue'),
      ("'glue'", 'glue'),
      ("('glue_rte', 'glue_cola')", ('glue_rte', 'glue_cola')),
      ('super/glue:1', 'super/glue:1'),
      ('a b', 'a b'),
    ],
  )
  def test_a_bare_word_is_a_string(self, text, value):
    assert run_of(RUN, f'data.mixture={text}').data.mixture == value

  def test_spaces_around_the_equals_sign_do_not_matter(self):
    assert run_of(RUN, ' train.num_steps = 9 ').train.num_steps == 9

  def test_a_value_cannot_smuggle_in_a_second_statement(self):
    run = run_of(RUN, 'data.vocabulary=5\ntrain.seed = 3')
    assert run.train.seed == 0
    assert run.data.vocabulary == '5\ntrain.seed = 3'

  def test_macros_and_blocks(self):
    text = """
STEPS = 40
SCALED = %STEPS
train:
  num_steps = %SCALED
  seed = 3
data.mixture = (%TASK, 'glue_rte')
TASK = 'glue_cola'
"""
    run = run_of(MODEL + text)
    assert (run.train.num_steps, run.train.seed) == (40, 3)
    assert run.data.mixture == ('glue_cola', 'glue_rte')
    assert run_of(MODEL + text, 'STEPS=50').train.num_steps == 50

  def test_parts_are_chosen_by_reference_or_by_name(self):
    text = RUN + 'run.optimizer = @AdamW()\nAdamW.b1 = 0.5\n'
    assert run_of(text).optimizer.b1 == 0.5
    assert run_of(RUN, 'run.optimizer=AdamW', 'AdamW.b1=0.25').optimizer.b1 == (
      0.25
    )
    chosen = run_of(text, 'run.method=HyperGrid', 'HyperGrid.grid_rows=4')
    assert chosen.method.grid_rows == 4
    assert run_of(text, 'run.method=None').method is None

  def test_several_methods_are_used_together_in_their_order(self):
    text = RUN + (
      'run.method = (@CAMTL(), @HyperGrid())\n'
      'HyperGrid.grid_rows = 4\nCAMTL.window = 5\n'
    )
    names = [type(one).__name__ for one in run_of(text).method]
    assert names == ['CAMTL', 'HyperGrid']
    assert [
      run_of(text).method[0].window,
      run_of(text).method[1].grid_rows,
    ] == [
      5,
      4,
    ]
    again = run_of(text, "run.method=('HyperGrid', 'CAMTL')", 'CAMTL.window=6')
    assert again.method == (
      run_of(text).method[1],
      dataclasses.replace(run_of(text).method[0], window=6),
    )
    written = run_config.operative_config(run_of(text))
    assert '\nrun.method = (@CAMTL(), @HyperGrid())\n' in written
    assert parse([write(written, 'config.gin')]) == run_of(text)

  def test_a_tuple_of_one_method_is_that_method(self):
    assert run_of(RUN, 'run.method=(@HyperGrid(),)') == run_of(
      RUN, 'run.method=HyperGrid'
    )

  @pytest.mark.parametrize(
    ('part', 'value', 'got'),
    [
      (
        'method',
        '(@HyperGrid(), @HyperGird())',
        r'HyperGird.*mean .@HyperGrid',
      ),
      ('method', '(@HyperGrid(), @HyperGrid())', 'of different methods'),
      ('method', '(@HyperGrid(), None)', r'got \(@HyperGrid\(\), None\)'),
      ('method', '()', r'got \(\), expected @HyperGrid\(\) or'),
      ('method', '[{}]', r'got \(\{\}\), expected'),
      ('optimizer', '(@AdamW(), @Adafactor())', r'got .*, expected @Adafactor'),
    ],
  )
  def test_what_cannot_be_used_together(self, part, value, got):
    text = f'{RUN}run.{part} = {value}\n'
    assert re.search(rf'run\.gin:\d+: run\.{part}: .*{got}', refusal(text))

  def test_nothing_is_left_behind_by_an_earlier_call(self):
    before = run_of(RUN)
    run_of(RUN, 'train.seed=5', 'run.method=HyperGrid')
    with pytest.raises(UserError):
      run_of(RUN, 'train.seed=five')
    assert run_of(RUN) == before


class TestFiles:
  def test_includes_are_read_where_they_stand(self):
    write('train.seed = 1\ntrain.log_period = 5\n', 'part.gin')
    text = f"train.seed = 2\ninclude 'part.gin'\n{RUN}train.log_period = 6\n"
    run = run_of(text)
    assert (run.train.seed, run.train.log_period) == (1, 6)

  @pytest.mark.parametrize('name', ['gin/models/tiny.gin', 'models/tiny.gin'])
  def test_installed_files_are_found_from_anywhere(self, name):
    run = run_of(f"{RUN}include '{name}'\n")
    assert run.model.d_model == 96

  def test_the_working_directory_comes_first(self, tmp_path):
    (tmp_path / 'models').mkdir()
    write(MODEL, 'models/tiny.gin')
    run = run_of(f"{RUN}include 'models/tiny.gin'\n")
    assert run.model.d_model == 12

  @pytest.mark.parametrize(
    ('text', 'message'),
    [
      ("include 'no.gin'", 'run.gin:1: no.gin: no such gin file in'),
      ("\ninclude 'runs/quikstart.gin'", "'gin/runs/quickstart.gin'"),
      ("include 'run.gin'", 'run.gin:1: run.gin includes itself'),
      ('from os import path', 'run.gin:1: only `import MODULE` is supported'),
      ('x/train.seed = 1', 'run.gin:1: x/train: scopes are not supported'),
      ('\ntrain.seed = \n', 'run.gin:2: not gin: Unable to parse value'),
      ('train.seed = 1 2', 'run.gin:1: not gin: Expected newline'),
      ('train seed', 'run.gin:1: not gin: '),
      ('data.mixture = (1,\n', 'not gin'),
      ("data.mixture = 'a", 'run.gin:1: not gin'),
    ],
  )
  def test_what_is_not_a_gin_file_is_refused_with_its_line(self, text, message):
    assert message in refusal(text)

  def test_a_missing_file_is_named_with_the_closest(self):
    with pytest.raises(UserError, match="'gin/runs/quickstart.gin'"):
      parse(['gin/runs/quikstart.gin'])

  def test_a_binary_file_is_refused(self, tmp_path):
    (tmp_path / 'x.gin').write_bytes(b'\xff\xfe\x00')
    with pytest.raises(UserError, match=r'x\.gin: not a text file'):
      parse(['x.gin'])

  def test_a_directory_is_no_file(self, tmp_path):
    (tmp_path / 'x.gin').mkdir()
    with pytest.raises(UserError, match='no such gin file'):
      parse(['x.gin'])


class TestMistakes:
  @pytest.mark.parametrize(
    ('line', 'fragments'),
    [
      ('train.nm_steps = 5', ["no field 'nm_steps'", "'num_steps'"]),
      ('trian.num_steps = 5', ["no 'trian'", "'train'"]),
      ('T5config.d_model = 5', ["'T5Config'"]),
      ("train.num_steps = '5'", ["got '5'", 'expected an integer']),
      ('train.num_steps = 5.0', ['got 5.0', 'expected an integer']),
      ('train.num_steps = True', ['got True', 'expected an integer']),
      ('data.pack = 1', ['got 1', 'expected True or False']),
      ("data.mixing = 'equl'", ["'equl'", "'equal'"]),
      ('train.trainable = (1,)', ['got (1,)', 'each item a string']),
      ('train.seed = @AdamW()', ['got @AdamW()', 'an integer']),
      ('train.seed = %SEDE', ['%SEDE is not defined']),
      ('data.rate_cap = -3', ['data.rate_cap is -3']),
      ('run.optimizer = @Adafact()', ['@Adafact()', "'@Adafactor()'"]),
      ('run.optimizer = @AdamW', ['@AdamW', '@AdamW()']),
      ('run.optimizer = None', ['got None', '@Adafactor() or @AdamW()']),
      ('run.schedule = %gin.REQUIRED', ['run.schedule', '@Constant()']),
      ('train.seed = %gin.REQUIRED', ['train.seed has no value']),
    ],
  )
  def test_a_wrong_line_is_named(self, line, fragments):
    message = refusal(f'{RUN}{line}\n')
    # RUN has eleven lines, of which the first is empty.
    assert message.startswith(f'run.gin:{RUN.count(chr(10)) + 1}: ')
    for fragment in fragments:
      assert fragment in message

  @pytest.mark.parametrize(
    ('argument', 'fragments'),
    [
      ('train.nm_steps=5', ["'num_steps'"]),
      ('train.num_steps=five', ["got 'five'", 'an integer']),
      ('data.pack=true', ["got 'true'", 'True or False']),
      ('num_steps=5', ['num_steps is not used', "'train.num_steps'"]),
      ('train.num_steps', ['expected NAME=VALUE']),
      ('train.num_steps=', ['expected NAME=VALUE']),
      ('=5', ['expected NAME=VALUE']),
      ('AdamW.b1=0.5', ['AdamW is no component of this run']),
      ('HyperGrid.grid_rows=4', ['HyperGrid is no component of this run']),
    ],
  )
  def test_a_wrong_argument_is_named(self, argument, fragments):
    message = refusal(RUN, argument)
    assert argument in message
    for fragment in fragments:
      assert fragment in message

  def test_a_binding_in_a_file_may_be_for_a_part_that_is_not_used(self):
    assert run_of(f'{RUN}HyperGrid.grid_rows = 4\n').method is None
    assert 'grid_rows' in refusal(f"{RUN}HyperGrid.grid_rows = '4'\n")

  def test_a_macro_that_nobody_uses_is_refused(self):
    message = refusal(f'NUM_STEP = 5\nNUM_STEPS = 6\n{RUN}', 'SEED=3')
    assert message.startswith('run.gin:1: NUM_STEP is not used')

  def test_macros_in_a_circle_are_refused(self):
    message = refusal(f'A = %B\nB = %A\n{RUN}train.seed = %A\n')
    assert 'defined by itself' in message

  def test_a_missing_value_says_how_to_set_it(self):
    message = refusal(MODEL + "data.mixture = 'glue'\n")
    assert message.startswith('train.num_steps has no value; expected an int')
    assert 'train.num_steps=VALUE' in message

  def test_a_required_value_says_where_and_which_flag(self):
    text = RUN + 'data.vocabulary = %gin.REQUIRED\n'
    message = refusal(text)
    assert message.startswith('run.gin:')
    assert '--vocab=VALUE' in message
    assert run_of(text, vocab='sample').data.vocabulary == 'sample'

  def test_a_value_that_its_dataclass_refuses_gets_its_line(self):
    message = refusal(f'T5Config.dropout_rate = 1.5\n{RUN}train.seed = 3\n')
    assert message.startswith('run.gin:1: T5Config.dropout_rate')
    # MeshConfig speaks of itself by its class's name.
    assert refusal(f'mesh.model = 0\n{RUN}').startswith('run.gin:1: ')


def strings():
  return st.text(string.printable, min_size=1, max_size=8)


def numbers(low, high):
  return st.floats(low, high, allow_nan=False, exclude_min=True)


class TestOperativeConfig:
  @given(
    mixture=strings() | st.lists(strings(), min_size=1, unique=True).map(tuple),
    vocabulary=strings(),
    weights=st.none() | st.dictionaries(strings(), numbers(0, 9), min_size=1),
    trainable=st.just('all') | st.lists(strings(), min_size=1).map(tuple),
    temperature=numbers(0, 1e6),
    clip_norm=st.none() | numbers(0, 1e-6),
    method=st.sampled_from(['None', 'HyperGrid', '(@CAMTL(), @HyperGrid())']),
    optimizer=st.sampled_from(['Adafactor', 'AdamW']),
  )
  @settings(max_examples=60, deadline=None)
  def test_read_back_it_gives_the_same_run(
    self, mixture, vocabulary, weights, trainable, temperature, clip_norm,
    method, optimizer,
  ):  # fmt: skip
    run = run_of(RUN, f'run.method={method}', f'run.optimizer={optimizer}')
    run = dataclasses.replace(
      run,
      data=dataclasses.replace(
        run.data,
        mixture=mixture,
        vocabulary=vocabulary,
        weights=weights,
        temperature=temperature,
      ),
      train=dataclasses.replace(
        run.train, trainable=trainable, clip_norm=clip_norm
      ),
    )
    again = parse([write(run_config.operative_config(run), 'config.gin')])
    assert again == run

  def test_it_names_every_field(self):
    text = run_config.operative_config(run_of(RUN))
    for name, part in [('T5Config', 'model'), ('train', 'train')]:
      for field in dataclasses.fields(getattr(run_of(RUN), part)):
        assert f'\n{name}.{field.name} = ' in text
    assert 'run.method = None' in text
    assert 'HyperGrid' not in text

  def test_a_stranger_in_the_run_is_a_mistake_of_ours(self):
    run = dataclasses.replace(run_of(RUN), optimizer=object())
    with pytest.raises(TypeError, match='Adafactor, AdamW'):
      run_config.operative_config(run)

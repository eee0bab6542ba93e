"""Malformed vocabularies, settings of the data, and directories for tokens.

Each through the command: exit code 2, one message that says where, no
traceback, and no file written or changed.
"""

import gzip
import pathlib

import pytest

from hypergrid_jax.tasks import vocabularies
from tests.refusals import refusal, write

SST2 = '{"sentence": "a film", "label": 1, "idx": 0}\n'


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)


def tokenize(capsys, *arguments):
  return refusal(
    capsys, ['tokenize', '--gin_file=gin/runs/quickstart.gin', *arguments]
  )


SAMPLE_MODEL = pathlib.Path(vocabularies.vocabulary_path('sample')).read_bytes()
VOCABULARIES = {
  'nothing': (None, 'there is no such file'),
  'an empty file': (b'', 'holds no pieces'),
  'half of a model': (
    SAMPLE_MODEL[: len(SAMPLE_MODEL) // 2],
    'not a SentencePiece model',
  ),
  'a compressed model': (
    gzip.compress(SAMPLE_MODEL, mtime=0),
    'not a SentencePiece',
  ),
}


class TestVocabularies:
  @pytest.mark.parametrize('case', VOCABULARIES)
  def test_a_file_that_is_no_model(self, capsys, case):
    content, fragment = VOCABULARIES[case]
    if content is not None:
      write('v.model', content)
    for verb in (['tasks', 'show'], ['tasks', 'check']):
      message = refusal(capsys, [*verb, 'glue_sst2', '--vocab=v.model'])
      assert message.startswith('Vocabulary v.model')
      assert fragment in message
    assert 'Vocabulary v.model' in tokenize(capsys, '--vocab=v.model')

  @pytest.mark.parametrize('position', range(0, len(SAMPLE_MODEL), 331))
  def test_a_flipped_byte_never_ends_in_a_traceback(self, capsys, position):
    """It may be another model that is as good: then the split is refused."""
    damaged = bytearray(SAMPLE_MODEL)
    damaged[position] ^= 0xFF
    write('v.model', bytes(damaged))
    refusal(
      capsys,
      ['tasks', 'show', 'glue_sst2', '--vocab=v.model', '--split=nowhere'],
    )


@pytest.mark.parametrize(
  ('binding', 'fragments'),
  [
    ('mixture=glu', ["'glu'", "Did you mean 'glue'"]),
    ('mixture=("glue_sst2", "glue_sst2")', ['glue_sst2 more than once']),
    ('task_files=("x.toml",)', ['x.toml', 'no such file']),
    ('source=smaple', ['data.source', "'smaple'"]),
    ('vocabulary=""', ['data.vocabulary']),
    ('inputs_length=1', ['data.inputs_length is 1', 'at least 2']),
    ('row_length=63', ['data.row_length = 63 is shorter', 'inputs_length']),
    ('max_segments=0', ['data.max_segments is 0', 'at least 1']),
    ('batch_size=-24', ['data.batch_size is -24']),
    ('pack=yes', ["got 'yes'", 'True or False']),
    ('mixing=equally', ["'equally'", "Did you mean 'equal'"]),
    ('temperature=1e999', ['data.temperature is inf']),
    ('weights=[1, 2]', ['got [1, 2]', 'a dictionary']),
    ('weights={"glue_sst2": -1.0}', ["data.weights['glue_sst2'] is -1.0"]),
    ('weights={"glue_sst2": 0.0}', ['all 0']),
    ('missing_train=skipped', ["Did you mean 'skip'"]),
    ('token_dir=""', ['data.token_dir']),
    ('sources=sample', ["no field 'sources'", "Did you mean 'source'"]),
  ],
)
def test_a_setting_of_the_data(capsys, binding, fragments):
  message = tokenize(capsys, f'data.{binding}')
  for fragment in fragments:
    assert fragment in message
  name, _, value = binding.partition('=')
  write(
    'bad.gin',
    f"include 'gin/runs/quickstart.gin'\n\ndata.{name} = {quoted(value)}\n",
  )
  message = refusal(capsys, ['tokenize', '--gin_file=bad.gin'])
  for fragment in fragments:
    assert fragment in message


def quoted(value):
  """In a gin file, a bare word needs quotes."""
  is_word = value[0].isalpha() and value != 'None'
  return f"'{value}'" if is_word else value


class TestTokenDirectories:
  @pytest.mark.parametrize(
    ('made', 'directory'),
    [
      ('file', 'file'),
      ('file', 'file/tokens'),
      ('tokens/glue_sst2', 'tokens'),
      (None, '/proc/tokens'),
      (None, '/dev/null'),
    ],
  )
  def test_one_that_cannot_be_written(self, capsys, made, directory):
    if made:
      write(made, 'mine')
    write('d/glue/sst2/validation.jsonl', SST2)
    message = refusal(
      capsys,
      [
        *('tasks', 'show', 'glue_sst2', '--vocab=bytes'),
        *('--data_source=files:d', f'--token_dir={directory}'),
      ],
    )
    assert directory in message

  def test_a_run_directory_that_is_a_file(self, capsys):
    write('runs/mine', 'x')
    message = tokenize(capsys, '--model_dir=runs/mine')
    assert 'runs/mine' in message

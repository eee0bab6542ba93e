"""Malformed files of rows, and sources that are not there.

Each through the command: exit code 2, one message that says where, no
traceback, and no file written or changed. test_malformed_settings has
vocabularies, settings and directories, test_malformed_tasks task files, and
test_malformed_rows rows to predict.
"""

import gzip
import json
import os

import pytest

from tests.refusals import refusal, write

SST2 = '{"sentence": "a film", "label": 1, "idx": 0}\n'
TSV = 'sentence\tlabel\tidx\na film\t1\t0\n'
CSV = 'sentence,label,idx\na film,1,0\n'
WSC = {
  'text': 'Ann met Sue because she was lost .',
  'span1_index': 0,
  'span1_text': 'Ann',
  'span2_index': 4,
  'span2_text': 'she',
  'idx': 0,
  'label': 1,
}
MULTIRC = {
  'paragraph': 'It rained.',
  'question': 'Did it rain?',
  'answer': 'yes',
  'idx': {'paragraph': 0, 'question': 0, 'answer': 0},
  'label': 1,
}
RECORD = {
  'passage': 'Ann met Sue.',
  'query': '@placeholder met Sue.',
  'entities': ['Ann', 'Sue'],
  'answers': ['Ann'],
  'idx': {'passage': 0, 'query': 0},
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)


def changed(row, **values):
  return json.dumps({**row, **values})


# Name of the file below d/glue/sst2, its content, and what the message says.
SST2_FILES = {
  'not JSON': ('validation.jsonl', SST2 + '{"sentence": "b"', ['jsonl:2']),
  'a number': ('validation.jsonl', '5\n', [':1', 'a whole number']),
  'NaN': (
    'validation.jsonl',
    SST2 + '{"sentence": "b", "label": NaN, "idx": 1}\n',
    [':2', 'NaN is not JSON'],
  ),
  'nested too deeply': ('validation.jsonl', '[' * 100_000, [':1']),
  'a number for a text': (
    'validation.jsonl',
    SST2 + '{"sentence": 5, "label": 1, "idx": 1}\n',
    [':2', "field 'sentence'", 'expected text', '5'],
  ),
  'a label out of range': (
    'validation.jsonl',
    '{"sentence": "b", "label": 2, "idx": 1}\n',
    [':1', "field 'label'", '2 is out of range'],
  ),
  'a field that is missing': (
    'validation.jsonl',
    '{"sentense": "b", "label": 1, "idx": 1}\n',
    [':1', "'sentence' is missing", "Did you mean 'sentense'"],
  ),
  'half of a surrogate pair': (
    'validation.jsonl',
    '{"sentence": "b\\ud800", "label": 1, "idx": 1}\n',
    [':1', "field 'sentence'", 'surrogate'],
  ),
  'Latin-1': (
    'validation.jsonl',
    SST2.encode() + SST2.replace('film', 'café').encode('latin-1'),
    [':2', 'not UTF-8', '0xe9'],
  ),
  'a gzip file cut off': (
    'validation.jsonl.gz',
    gzip.compress(SST2.encode() * 9, mtime=0)[:-9],
    ['validation.jsonl.gz', 'damaged or cut off'],
  ),
  'gzip without .gz': (
    'validation.jsonl',
    gzip.compress(SST2.encode(), mtime=0),
    [':1', 'not UTF-8'],
  ),
  'an empty file': ('validation.jsonl', '', ['no rows']),
  'a table of JSON lines': ('validation.tsv', SST2, ['no rows']),
  'a row of a TSV too short': (
    'validation.tsv',
    TSV + 'b\t1\n',
    ['validation.tsv:3', '2 fields', 'sentence, label, idx'],
  ),
  'two columns of one name': (
    'validation.tsv',
    TSV.replace('idx', 'label'),
    ['validation.tsv:1', "'label' is named twice"],
  ),
  'a word for a label in a table': (
    'validation.tsv',
    TSV + 'b\tgood\t1\n',
    ['validation.tsv:3', "field 'label'", 'good'],
  ),
  'an open quote in a CSV': (
    'validation.csv',
    CSV + '"a film,1,0\n',
    ['validation.csv:3', 'not valid CSV'],
  ),
}


@pytest.mark.parametrize('case', SST2_FILES)
def test_a_file_of_rows(capsys, case):
  name, content, fragments = SST2_FILES[case]
  write(f'd/glue/sst2/{name}', content)
  check_data(capsys, 'glue_sst2', fragments)


def check_data(capsys, task, fragments):
  message = refusal(
    capsys,
    ['tasks', 'check', task, '--data_source=files:d', '--vocab=bytes'],
  )
  for fragment in fragments:
    assert fragment in message
  return message


@pytest.mark.parametrize(
  ('task', 'row', 'fragments'),
  [
    (
      'super_glue_wsc',
      changed(WSC, span2_index=5),
      ["'span2_index' 5", "'was'", "'she'"],
    ),
    (
      'super_glue_multirc',
      changed(MULTIRC, idx={'paragraph': 0, 'answer': 0}),
      ["'idx/question' is missing"],
    ),
    (
      'super_glue_record',
      changed(RECORD, answers='Ann'),
      ["field 'answers'", 'a list of texts'],
    ),
  ],
)
def test_rows_of_other_tasks(capsys, task, row, fragments):
  benchmark, _, config = task.rpartition('_')
  write(f'd/{benchmark}/{config}/validation.jsonl', row + '\n')
  check_data(capsys, task, ['validation.jsonl:1', *fragments])


class TestWhereFilesAre:
  def test_a_file_that_says_it_is_partial(self, capsys):
    write('d/glue/sst2/validation.partial.jsonl', SST2)
    check_data(capsys, 'glue_sst2', ['files:d has no split of glue_sst2'])

  def test_a_split_that_is_not_there(self, capsys):
    write('d/glue/sst2/validation.jsonl', SST2)
    message = refusal(
      capsys,
      ['tasks', 'show', 'glue_sst2', '--data_source=files:d', '--split=train'],
    )
    assert 'no train of glue_sst2. It has validation' in message

  def test_a_training_set_that_is_not_there(self, capsys):
    write('d/glue/sst2/validation.jsonl', SST2)
    write('d/glue/sst2/train.partial.jsonl', SST2)
    message = refusal(
      capsys,
      [
        *('tokenize', '--gin_file=gin/runs/quickstart.gin'),
        *('data.mixture=glue_sst2', '--data_source=files:d'),
      ],
    )
    assert "glue_sst2, split 'train': no file" in message
    assert 'train.partial.jsonl is incomplete by its name' in message

  @pytest.mark.parametrize(
    ('source', 'fragment'),
    [
      ('smaple', "Did you mean 'sample'"),
      ('files:nowhere', 'nowhere is not a directory'),
      ('files:file', 'file is not a directory'),
      ('d', "Expected 'sample', 'tfds', or 'files:DIR'"),
    ],
  )
  def test_a_source(self, capsys, source, fragment):
    write('file', 'x')
    os.mkdir('d')
    for arguments in (['list'], ['check', 'glue_sst2']):
      message = refusal(
        capsys, ['tasks', *arguments, f'--data_source={source}']
      )
      assert fragment in message

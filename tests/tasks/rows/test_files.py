"""Rows of files: what arrives unchanged, what is refused, by file and line.

Rows are read without seqio and TensorFlow.
"""

import json
import re

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from hypergrid_jax.errors import UserError
from hypergrid_jax.tasks.definitions import DEFINITIONS, definition
from hypergrid_jax.tasks.rows import files, sources
from tests.data.task_files import GOOD, HEADER, RTE, lines, place, read
from tests.tasks import tiny_rows


@pytest.mark.parametrize('task', DEFINITIONS.values(), ids=lambda t: t.name)
@pytest.mark.parametrize('suffix', files.SUFFIXES)
def test_every_form_gives_the_same_rows(tmp_path, task, suffix):
  for split in task.splits:
    rows = tiny_rows.rows(task, split)
    if 'tsv' in suffix:  # A field of a TSV file can hold no tab or line end.
      rows = [_without_tabs(row) for row in rows]
    form = suffix.removesuffix('.gz')
    content = lines(*rows) if form == '.jsonl' else _table(task, rows, form)
    place(tmp_path, task, split + suffix, content)
    found = read(tmp_path, task, split)
    assert found == rows
    assert _types(found) == _types(rows)


def _without_tabs(row):
  return {
    name: re.sub('[\t\n]', ' ', value) if isinstance(value, str) else value
    for name, value in row.items()
  }


def _types(value):
  if isinstance(value, dict):
    return {name: _types(item) for name, item in value.items()}
  if isinstance(value, list):
    return [_types(item) for item in value]
  return type(value)


def _table(task, rows, form):
  """Writes a table cell by cell, the way the format is described."""

  def cell(row, name):
    outer, _, inner = name.partition('/')
    value = row[outer][inner] if inner else row[outer]
    text = json.dumps(value) if isinstance(value, list) else str(value)
    return '"{}"'.format(text.replace('"', '""')) if form == '.csv' else text

  separator = ',' if form == '.csv' else '\t'
  cells = [[cell(row, name) for name in task.fields] for row in rows]
  table = [list(task.fields), *cells]
  return ''.join(separator.join(line) + '\r\n' for line in table)


ODD_TEXTS = [
  '',
  ' ',
  ' leading and trailing ',
  'control \x00 \x01 \x07 \x1b \x7f \x85 end',
  'separators \u2028 \u2029 \x0b \x0c \x1c end',
  'carriage \r return',
  'replacement \ufffd, emoji \U0001f600, combining e\u0301, nbsp\xa0',
  '\ufeffmark inside',
  '"quoted" \'single\' back\\slash \\n \\t "" " end',
  'no,commas,here; {json: "x"} <br>',
  'x' * 300_000,
]


@pytest.mark.parametrize('text', ODD_TEXTS, ids=lambda text: repr(text)[:20])
@pytest.mark.parametrize('form', ['.jsonl', '.tsv', '.csv'])
def test_odd_text_arrives_unchanged(tmp_path, form, text):
  rows = [{**GOOD, 'premise': text}, {**GOOD, 'hypothesis': text}]
  content = ''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in rows)
  content = content if form == '.jsonl' else _table(RTE, rows, form)
  place(tmp_path, RTE, f'train{form}', content)
  assert read(tmp_path) == rows


@settings(max_examples=60, deadline=None)
@given(
  texts=st.lists(
    st.text(st.characters(exclude_categories=['Cs'])), min_size=1, max_size=4
  ),
  form=st.sampled_from(['.jsonl', '.csv']),
  newline=st.sampled_from(['\n', '\r\n']),
)
def test_any_text_survives(tmp_path_factory, texts, form, newline):
  rows = [
    {**GOOD, 'premise': text, 'idx': index} for index, text in enumerate(texts)
  ]
  content = lines(*rows) if form == '.jsonl' else _table(RTE, rows, form)
  if form == '.jsonl':
    content = content.replace('\n', newline)
  directory = tmp_path_factory.mktemp('any')
  place(directory, RTE, f'train{form}', content)
  assert read(directory) == rows


@pytest.mark.parametrize('mark', ['', '\ufeff'])
@pytest.mark.parametrize('newline', ['\n', '\r\n'])
@pytest.mark.parametrize('last', [True, False])
@pytest.mark.parametrize('form', ['.jsonl', '.tsv', '.csv'])
def test_line_ends_and_byte_order_marks(tmp_path, mark, newline, last, form):
  head, row = 'premise,hypothesis,idx,label', 'P,H,7,1'
  if form == '.tsv':
    head, row = head.replace(',', '\t'), row.replace(',', '\t')
  content = [head, row, row] if form != '.jsonl' else [json.dumps(GOOD)] * 2
  text = mark + newline.join(content) + (newline if last else '')
  place(tmp_path, RTE, f'train{form}', text)
  assert read(tmp_path) == [GOOD, GOOD]


def test_fields_in_quotes_may_hold_line_ends(tmp_path):
  content = 'label,idx,premise,hypothesis\n1,7,"a\r\n\n""b"",c",H\n1,8,P,H\n'
  place(tmp_path, RTE, 'train.csv', content)
  assert read(tmp_path) == [
    {**GOOD, 'premise': 'a\r\n\n"b",c'},
    {**GOOD, 'idx': 8},
  ]


def test_fields_that_the_task_lacks_are_left_out(tmp_path):
  place(tmp_path, RTE, 'train.jsonl', lines({**GOOD, 'note': [1], 'id': 'x'}))
  assert read(tmp_path) == [GOOD]


def test_flat_names_stand_for_nested_ones(tmp_path):
  task = definition('super_glue_multirc')
  row = tiny_rows.rows(task, 'train')[0]
  flat = {name: value for name, value in row.items() if name != 'idx'}
  flat |= {f'idx/{name}': value for name, value in row['idx'].items()}
  place(tmp_path, task, 'train.jsonl', lines(flat))
  assert read(tmp_path, task) == [row]


def test_test_splits_may_lack_labels(tmp_path):
  unlabelled = {name: GOOD[name] for name in ('premise', 'hypothesis', 'idx')}
  content = lines(unlabelled, {**GOOD, 'label': -1}, GOOD)
  place(tmp_path, RTE, 'test.jsonl', content)
  labels = [row['label'] for row in read(tmp_path, split='test')]
  assert labels == [-1, -1, 1]
  stsb = definition('glue_stsb')
  row = {'sentence1': 'a', 'sentence2': 'b', 'idx': 0}
  place(tmp_path, stsb, 'test.jsonl', lines(row, {**row, 'label': 3}))
  scores = [row['label'] for row in read(tmp_path, stsb, 'test')]
  assert [(score, type(score)) for score in scores] == [
    (-1.0, float),
    (3.0, float),
  ]
  record = definition('super_glue_record')
  row = tiny_rows.rows(record, 'test')[0]
  row.pop('answers')
  place(tmp_path, record, 'test.jsonl', lines(row))
  assert read(tmp_path, record, 'test')[0]['answers'] == []


def changed(**changes):
  """Returns two good rows and one with changed fields on line 3."""
  row = {
    name: value
    for name, value in {**GOOD, **changes}.items()
    if value is not None
  }
  return lines(GOOD, GOOD, row)


MALFORMED = {
  # name: (file, content, line, what the message says)
  'not JSON': ('train.jsonl', lines(GOOD) + '{"premise": \n', 2, 'JSON'),
  'two rows in a line': ('train.jsonl', lines(GOOD)[:-1] * 2, 1, 'Extra data'),
  'control character': ('train.jsonl', '{"premise": "a\x01"}\n', 1, 'control'),
  'cut row': ('train.jsonl', lines(GOOD, GOOD)[:-20], 2, 'JSON'),
  'array': ('train.jsonl', lines(GOOD, [1, 2]), 2, 'a list'),
  'text': ('train.jsonl', lines(GOOD, 'text'), 2, 'JSON object'),
  'null': ('train.jsonl', '\n\nnull\n', 3, 'null'),
  'deep': ('train.jsonl', '[' * 100_000, 1, 'JSON'),
  'huge number': ('train.jsonl', '{"idx": ' + '1' * 5000 + '}', 1, 'JSON'),
  'NaN': ('train.jsonl', lines({**GOOD, 'label': float('nan')}), 1, 'NaN'),
  'no field': ('train.jsonl', changed(premise=None), 3, "'premise' is missing"),
  'no label': ('train.jsonl', changed(label=None), 3, "'label' is missing"),
  'number for text': ('train.jsonl', changed(premise=5), 3, 'expected text'),
  'null text': ('train.jsonl', '{"premise": null}\n', 1, 'got null'),
  'list for text': ('train.jsonl', changed(premise=['a']), 3, 'got a list'),
  'text for label': ('train.jsonl', changed(label='1'), 3, "got text: '1'"),
  'true for label': ('train.jsonl', changed(label=True), 3, 'true or false'),
  'number for label': ('train.jsonl', changed(label=1.0), 3, 'a number: 1.0'),
  'label 2': ('train.jsonl', changed(label=2), 3, '2 is out of range'),
  'label -1': ('train.jsonl', changed(label=-1), 3, '1 (not_entailment)'),
  'text for idx': ('train.jsonl', changed(idx='x'), 3, 'a whole number'),
  'large idx': ('train.jsonl', changed(idx=2**31), 3, '32 bits'),
  'surrogate': ('train.jsonl', changed(premise='a\ud800'), 3, 'surrogate'),
  'not UTF-8': ('train.jsonl', lines(GOOD).encode() + b'{"\xe9"}', 2, '0xe9'),
  'UTF-16': ('train.jsonl', lines(GOOD).encode('utf-16'), 1, '0xff'),
  'no column': ('train.tsv', 'premise\tidx\tlabel\nP\t7\t1\n', 2, 'hypothesis'),
  'column twice': ('train.tsv', 'idx\tlabel\tidx\n', 1, "'idx' is named twice"),
  'no header': ('train.tsv', 'P\tH\t7\t1\nP\tH\t7\t1\n', 2, "'premise'"),
  'few cells': ('train.tsv', f'{HEADER}P\tH\t7\t1\nP\tH\t7\n', 3, '3 fields'),
  'many cells': ('train.tsv', f'{HEADER}P\tH\tx\t7\t1\n', 2, '5 fields'),
  'empty cell': ('train.tsv', f'{HEADER}P\tH\t7\t\n', 2, "got text: ''"),
  'word cell': ('train.tsv', f'{HEADER}P\tH\tseven\t1\n', 2, "text: 'seven'"),
  'fraction': ('train.tsv', f'{HEADER}P\tH\t7\t1.0\n', 2, "text: '1.0'"),
  'TSV not UTF-8': ('train.tsv', HEADER.encode() + b'P\xff', 2, '0xff'),
  'CSV as TSV': ('train.tsv', 'premise,hypothesis\nP,H\n', 2, "'premise'"),
  'stray quote': (
    'train.csv',
    'premise,hypothesis,idx,label\nP,H,7,1\n"P"x,H,7,1\n',
    3,
    'not valid CSV',
  ),
  'open quote': (
    'train.csv',
    'premise,hypothesis,idx,label\n"P,H,7,1\nP,H,7,1\n',
    2,
    'not valid CSV',
  ),
  'CSV after a line end': (
    'train.csv',
    'premise,hypothesis,idx,label\n"P\nQ",H,7,1\nP,H,7,9\n',
    4,
    'out of range',
  ),
  'CSV not UTF-8': ('train.csv', b'premise\n\xff\n', 2, '0xff'),
}


@pytest.mark.parametrize('case', MALFORMED)
@pytest.mark.parametrize('packed', ['', '.gz'])
def test_malformed_rows_are_refused_by_file_and_line(tmp_path, case, packed):
  name, content, line, message = MALFORMED[case]
  path = place(tmp_path, RTE, name + packed, content)
  with pytest.raises(UserError) as error:
    read(tmp_path)
  assert str(error.value).startswith(f'{path}:{line}: ')
  assert message in str(error.value)


TASK_ERRORS = {
  'empty answers': ('super_glue_record', {'answers': []}, 'list is empty'),
  'text answers': ('super_glue_record', {'answers': 'a'}, 'a list of texts'),
  'number in list': ('super_glue_record', {'entities': ['a', 2]}, 'item 1'),
  'nested field': ('super_glue_multirc', {'idx': {'answer': 1}}, 'idx/para'),
  'flat index': ('super_glue_multirc', {'idx': 4}, "'idx/paragraph' is miss"),
  'nested text': (
    'super_glue_multirc',
    {'idx': {'paragraph': 'a', 'question': 0, 'answer': 0}},
    "'idx/paragraph': expected a whole number",
  ),
  'score': ('glue_stsb', {'label': 5.5}, '5.5 is out of range'),
  'no score': ('glue_stsb', {'label': -1}, '-1 is out of range'),
  'text score': ('glue_stsb', {'label': '3.5'}, "got text: '3.5'"),
  'infinite': ('glue_stsb', {'label': 1e308 * 10}, 'Infinity is not JSON'),
  'pronoun': ('super_glue_wsc', {'span2_index': 2}, "points at 'that'"),
  'first word': ('super_glue_wsc', {'span2_index': 0}, 'is 0; it has to'),
  'no word': ('super_glue_wsc', {'span2_index': 99}, 'is 99; it has to'),
}


@pytest.mark.parametrize('case', TASK_ERRORS)
def test_rows_that_do_not_fit_their_task(tmp_path, case):
  name, changes, message = TASK_ERRORS[case]
  task = definition(name)
  row = tiny_rows.rows(task, 'train')[0]
  path = place(tmp_path, task, 'train.jsonl', lines(row, {**row, **changes}))
  with pytest.raises(UserError) as error:
    read(tmp_path, task)
  assert str(error.value).startswith(f'{path}:2: ')
  assert message in str(error.value)


def test_lists_in_tables_are_json(tmp_path):
  task = definition('super_glue_record')
  head = '\t'.join(task.fields)
  row = "P\tQ\t['a']\t[]\t1\t2"
  place(tmp_path, task, 'train.tsv', f'{head}\n{row}\n')
  with pytest.raises(UserError, match=r":2: field 'entities': not a JSON list"):
    read(tmp_path, task)


@pytest.mark.parametrize('keep', [0.3, 0.9, -1])
def test_a_truncated_gzip_file(tmp_path, keep):
  rows = [{**GOOD, 'premise': f'{index * 7919}'} for index in range(5000)]
  path = place(tmp_path, RTE, 'train.jsonl.gz', lines(*rows))
  whole = path.read_bytes()
  path.write_bytes(whole[: int(len(whole) * keep) if keep > 0 else keep])
  found = []
  with pytest.raises(UserError) as error:
    found.extend(sources.read_rows(f'files:{tmp_path}', RTE, 'train'))
  assert found == rows[: len(found)]
  message = str(error.value)
  assert message.startswith(f'{path}:{len(found) + 1}: the gzip data')


def test_a_damaged_gzip_file(tmp_path):
  path = place(tmp_path, RTE, 'train.jsonl.gz', lines(*[GOOD] * 50))
  content = bytearray(path.read_bytes())
  content[-6] ^= 1  # A bit of the checksum.
  path.write_bytes(content)
  with pytest.raises(UserError, match='damaged or cut off'):
    read(tmp_path)


def test_what_only_calls_itself_gzip(tmp_path):
  path = place(tmp_path, RTE, 'train.jsonl.gz', '')
  path.write_text(lines(GOOD))
  with pytest.raises(UserError, match=r'train\.jsonl\.gz:1: the gzip data'):
    read(tmp_path)


@pytest.mark.parametrize(
  ('name', 'content'),
  [
    ('train.jsonl', ''),
    ('train.jsonl', '\n \r\n\n'),
    ('train.jsonl.gz', ''),
    ('train.tsv', HEADER),
    ('train.csv', ''),
  ],
)
def test_an_empty_split(tmp_path, name, content):
  path = place(tmp_path, RTE, name, content)
  with pytest.raises(UserError) as error:
    read(tmp_path)
  assert str(error.value) == f"{path}: the split 'train' has no rows."

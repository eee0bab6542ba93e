"""Predictions of a trained model: the same as the evaluation of the run gives.

One tiny run of four tasks, one of them a user's own, trained just enough to
write different texts for different inputs.
"""

import io
import json
import os
import subprocess
import sys

import jax
import pytest
from rich.console import Console

import hypergrid_jax
from hypergrid_jax.cli import main
from hypergrid_jax.config import run_config
from hypergrid_jax.errors import UserError
from hypergrid_jax.evaluation import predictor
from hypergrid_jax.prediction import loaded_model
from hypergrid_jax.runs import experiment
from hypergrid_jax.tasks import definitions
from hypergrid_jax.tasks.rows import sources
from tests.tasks import own_files, tiny_rows

TASKS = ('glue_mrpc', 'super_glue_record', 'super_glue_wsc')
BINDINGS = (
  f'data.mixture={(*TASKS, "reviews")!r}',
  'data.batch_size=8',
  'data.inputs_length=160',
  'data.targets_length=20',
  'data.row_length=160',
  'data.mixing=equal',
  'T5Config.d_model=16',
  'T5Config.d_ff=24',
  'T5Config.num_layers=1',
  'T5Config.num_decoder_layers=1',
  'LinearWarmup.learning_rate=1e-2',
  'LinearWarmup.total_steps=90',
  'LinearWarmup.warmup_steps=5',
  'train.num_steps=90',
  'evaluate.batch_size=8',
  'evaluate.length_buckets=(96, 160)',
)
LABELS = ('label', 'answers', 'stars')


@pytest.fixture(scope='module')
def run_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp('inference')
  for name in TASKS:
    tiny_rows.write_jsonl(folder, definitions.definition(name))
  flags = {
    'task_file': [own_files.write_reviews(folder / 'own')],
    'data_source': f'files:{folder}',
    'vocab': 'bytes',
  }
  run = run_config.parse(['gin/runs/quickstart.gin'], BINDINGS, flags)
  experiment.train(
    run,
    folder / 'run',
    config_text=run_config.operative_config(run),
    console=Console(file=io.StringIO()),
  )
  return folder / 'run'


@pytest.fixture(scope='module')
def model(run_dir):
  return hypergrid_jax.load(run_dir)


def lines_of(path):
  return path.read_text().split('\n')[:-1]


def without_labels(row):
  return {name: value for name, value in row.items() if name not in LABELS}


def evaluated(run_dir, task):
  """The rows of a prediction file, ReCoRD's once per query."""
  path = run_dir / f'predictions/90/{task}.jsonl'
  rows = map(json.loads, lines_of(path))
  return list({json.dumps(row['id']): row for row in rows}.values())


def asked(run_dir, task):
  """The same rows as a user would ask for them, without targets."""
  if task == 'reviews':
    header, *lines = own_files.TSV.splitlines()
    names = header.split('\t')
    rows = [dict(zip(names, line.split('\t'), strict=True)) for line in lines]
  else:
    source = f'files:{run_dir.parent}'
    definition = definitions.definition(task)
    rows = list(sources.read_rows(source, definition, 'validation'))
  return [
    {'task': task, 'fields': without_labels(row), 'id': f'{task} {number}'}
    for number, row in enumerate(rows)
  ]


def mixed(run_dir):
  """All of them, the tasks in turn, and what is to come out by id."""
  questions, texts = [], {}
  for task in (*TASKS, 'reviews'):
    rows, answers = asked(run_dir, task), evaluated(run_dir, task)
    assert len(rows) == len(answers) > 1
    questions += enumerate(rows)
    for row, answer in zip(rows, answers, strict=True):
      texts[row['id']] = answer['inputs'], answer['prediction']
  questions.sort(key=lambda item: item[0])
  return [row for _, row in questions], texts


def test_fields_give_what_evaluation_gives(run_dir, model):
  questions, texts = mixed(run_dir)
  answers = model.predict(questions)
  assert [a['id'] for a in answers] == [q['id'] for q in questions]
  assert [a['task'] for a in answers] == [q['task'] for q in questions]
  found = {a['id']: (a['inputs'], a['prediction']) for a in answers}
  assert found == texts
  assert len({prediction for _, prediction in texts.values()}) > 6


def test_formatted_text_gives_the_same(run_dir, model):
  questions, texts = mixed(run_dir)
  rows = [
    {'task': row['task'], 'inputs': texts[row['id']][0]} for row in questions
  ]
  answers = model.predict(rows)
  assert [a['id'] for a in answers] == list(range(len(rows)))
  assert [a['prediction'] for a in answers] == [
    texts[row['id']][1] for row in questions
  ]


def test_a_row_does_not_depend_on_the_others(run_dir, model):
  questions, texts = mixed(run_dir)
  for question in (questions[0], questions[-1]):
    (answer,) = model.predict([question])
    assert answer['prediction'] == texts[question['id']][1]


def test_nothing_is_predicted_of_nothing(model):
  assert model.predict([]) == []


def test_parameters_are_a_nested_dict_of_arrays(run_dir, model):
  facts = json.loads((run_dir / 'run.json').read_text())
  leaves = jax.tree.leaves_with_path(model.params)
  assert {type(entry) for path, _ in leaves for entry in path} == {
    jax.tree_util.DictKey
  }
  assert sum(leaf.size for _, leaf in leaves) == facts['parameters']['total']


def test_a_mistake_is_told_by_its_row(model):
  rows = [{'task': 'reviews', 'inputs': 'a'}, {'task': 'review', 'inputs': 'a'}]
  with pytest.raises(UserError, match=r"row 1: 'review' is no task.*'reviews'"):
    model.predict(rows)


def test_likeliest_labels_where_the_run_is_evaluated_so(run_dir, monkeypatch):
  """With rank scoring, tasks with labels get one of them; others write."""
  run = run_config.parse(
    [os.path.join(run_dir, 'config.gin')], ['evaluate.scoring=rank']
  )
  model = loaded_model.LoadedModel(loaded_model.read_run(run, run_dir))
  asked = []

  def texts(self, inputs, task_ids, *, labels):
    asked.append((labels, task_ids.tolist(), len(inputs)))
    return [f'{labels} {index}' for index in range(len(inputs))]

  monkeypatch.setattr(predictor.Predictor, 'texts', texts)
  tasks = ('reviews', 'glue_mrpc', 'super_glue_wsc', 'glue_mrpc')
  answers = model.predict([{'task': t, 'inputs': 'a'} for t in tasks])
  mrpc = ('not_equivalent', 'equivalent')
  assert asked == [
    (('negative', 'positive'), [3], 1),
    (mrpc, [0, 0], 2),
    (None, [2], 1),
  ]
  assert [answer['prediction'] for answer in answers] == [
    "('negative', 'positive') 0",
    f'{mrpc} 0',
    'None 0',
    f'{mrpc} 1',
  ]


def test_loading_takes_tensorflow_only_for_fields(run_dir):
  program = f"""
import sys
import hypergrid_jax
print('jax' in sys.modules)
model = hypergrid_jax.load({str(run_dir)!r}, step=90)
model.predict([{{'task': 'reviews', 'fields': {{'title': 'a', 'body': 'b'}}}},
               {{'task': 'super_glue_wsc', 'inputs': 'wsc: *He* slept.'}}])
print('tensorflow' in sys.modules)
"""
  done = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True, check=True
  )
  assert done.stdout.split() == ['False', 'False']


def test_a_file_is_answered_the_same(run_dir, tmp_path):
  questions, texts = mixed(run_dir)
  path, output = tmp_path / 'rows.jsonl', tmp_path / 'answers.jsonl'
  path.write_text(''.join(json.dumps(row) + '\n' for row in questions))
  arguments = [f'--model_dir={run_dir}', f'--input={path}']
  assert main.main(['predict', *arguments, f'--output={output}']) == 0
  answers = [json.loads(line) for line in lines_of(output)]
  assert [answer['id'] for answer in answers] == [q['id'] for q in questions]
  assert texts == {a['id']: (a['inputs'], a['prediction']) for a in answers}

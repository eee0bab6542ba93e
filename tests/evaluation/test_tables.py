import dataclasses
import io

from rich.console import Console

from hypergrid_jax.evaluation import results, tables

RESULTS = results.Results(
  step=30,
  tasks={
    'glue_mrpc': results.TaskResult(
      'validation',
      408,
      {'f1': 90.125, 'accuracy': 85.0},
      {'f1': 81.0, 'accuracy': 68.0},
    ),
    'glue_ax': results.TaskResult('test', 1104, {}),
    'super_glue_wic': results.TaskResult('validation', 638, {'accuracy': 7.5}),
  },
  max_decode_length=16,
)


def shown(tasks=RESULTS.tasks):
  """The lines of the table, each as its words."""
  output = io.StringIO()
  table = tables.screen(
    dataclasses.replace(RESULTS, tasks=tasks), title='step 30'
  )
  Console(file=output, width=100).print(table)
  return [' '.join(line.split()) for line in output.getvalue().splitlines()]


def test_every_metric_has_a_line_and_then_every_average():
  lines = [line for line in shown() if line and '──' not in line]
  assert lines == [
    'step 30',
    'task metric score majority examples',
    'glue_mrpc f1 90.12 81.00 408',
    'accuracy 85.00 68.00 408',
    'glue_ax not scored – – 1104',
    'super_glue_wic accuracy 7.50 – 638',
    'average glue 1 of 8 groups 87.56 74.50',
    # The baseline of an average needs the baselines of the same groups.
    'average super_glue 1 of 8 groups 7.50 –',
    'average glue_super_glue 2 of 16 groups 47.53 –',
  ]


def test_scores_of_few_examples_are_told_from_those_of_whole_splits():
  task = RESULTS.tasks['glue_mrpc']
  lines = shown({'glue_mrpc': dataclasses.replace(task, limit=9)})
  assert any('first 9 examples per task: not comparable' in x for x in lines)


def test_complete_average_has_its_plain_name():
  tasks = {
    name: results.TaskResult('validation', 10, {'accuracy': float(i)})
    for i, name in enumerate(
      f'super_glue_{task}' for task in ('boolq', 'copa', 'rte', 'wic', 'wsc')
    )
  }
  tasks |= {
    f'super_glue_{name}': results.TaskResult('validation', 10, metrics)
    for name, metrics in {
      'cb': {'mean_3class_f1': 20.0, 'accuracy': 30.0},
      'multirc': {'f1': 40.0, 'exact_match': 50.0},
      'record': {'f1': 60.0, 'em': 70.0},
    }.items()
  }
  # (0 + 1 + 2 + 3 + 4 + 25 + 45 + 65) / 8
  assert 'average super_glue 8 groups 18.12 –' in shown(tasks)

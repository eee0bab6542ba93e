import dataclasses
import io

from rich.console import Console

from hypergrid_jax.evaluation import results, tables

ALONE = results.Results(
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
OTHER = results.Results(
  step=40,
  tasks={
    'glue_rte': results.TaskResult(
      'validation', 277, {'accuracy': 60.0}, {'accuracy': 52.5}, limit=9
    ),
    'glue_mrpc': results.TaskResult(
      'validation',
      400,
      {'f1': 80.0, 'accuracy': 70.0},
      {'f1': 82.0, 'accuracy': 68.0},
    ),
  },
  max_decode_length=16,
)


def test_markdown_of_one_run():
  assert tables.markdown({'score': ALONE}) == (
    '| task | metric | score | majority | examples |\n'
    '| --- | --- | ---: | ---: | ---: |\n'
    '| glue_mrpc | f1 | 90.12 | 81.00 | 408 |\n'
    '|  | accuracy | 85.00 | 68.00 | 408 |\n'
    '| glue_ax | not scored | – | – | 1104 |\n'
    '| super_glue_wic | accuracy | 7.50 | – | 638 |\n'
    '| **average glue** | 1 of 8 groups | 87.56 | 74.50 |  |\n'
    '| **average super_glue** | 1 of 8 groups | 7.50 | – |  |\n'
    '| **average glue_super_glue** | 2 of 16 groups | 47.53 | – |  |\n'
  )


def test_two_runs_stand_side_by_side():
  assert tables.markdown({'HyperGrid': ALONE, 'plain T5': OTHER}) == (
    '| task | metric | HyperGrid | plain T5 | majority | examples |\n'
    '| --- | --- | ---: | ---: | ---: | ---: |\n'
    # Different baselines and counts were not scored on the same rows.
    '| glue_mrpc | f1 | 90.12 | 80.00 | – | 408/400 |\n'
    '|  | accuracy | 85.00 | 70.00 | 68.00 | 408/400 |\n'
    '| glue_ax | not scored | – | – | – | 1104 |\n'
    '| super_glue_wic | accuracy | 7.50 | – | – | 638 |\n'
    '| glue_rte | accuracy | – | 60.00 | 52.50 | 277 |\n'
    # Means over different groups do not stand side by side.
    '| **average glue** | 1 of 8 groups | 87.56 | – | 74.50 |  |\n'
    '| **average glue** | 2 of 8 groups | – | 67.50 | 63.75 |  |\n'
    '| **average super_glue** | 1 of 8 groups | 7.50 | – | – |  |\n'
    '| **average glue_super_glue** | 2 of 16 groups | 47.53 | – | – |  |\n'
    '\nScored on the first 9 examples per task: not comparable with whole'
    ' splits.\n'
  )


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
  last = tables.markdown(
    {'score': dataclasses.replace(ALONE, tasks=tasks)}
  ).splitlines()[-1]
  # (0 + 1 + 2 + 3 + 4 + 25 + 45 + 65) / 8
  assert last == '| **average super_glue** | 8 groups | 18.12 | – |  |'


def test_screen_shows_the_same_cells_as_markdown():
  runs = {'HyperGrid': ALONE, 'plain T5': OTHER}
  output = io.StringIO()
  Console(file=output, width=100).print(tables.screen(runs, title='step 30'))
  lines = [line.split() for line in output.getvalue().splitlines()]
  lines = [line for line in lines if line and '─' not in line[0]]
  expected = [
    line.replace('*', '').replace('|', ' ').split()
    for line in tables.markdown(runs).splitlines()
    if line.startswith('|') and '---' not in line
  ]
  assert lines[0] == ['step', '30']
  assert lines[1:-1] == expected
  assert ' '.join(lines[-1]).startswith('Scored on the first 9 examples')

"""The table's numbers and texts, against values computed by hand."""

import csv
import io
import json

import pytest
from rich.console import Console

from hypergrid_jax.comparing import report
from hypergrid_jax.comparing.report import Column, Comparison, Parameters
from hypergrid_jax.comparing.scores import Line, Statistic
from hypergrid_jax.comparing.step_times import StepTime

F1 = Line('glue_mrpc', 'f1')
ACCURACY = Line('glue_mrpc', 'accuracy')
AVERAGE = Line('glue_partial', '1 of 8 groups', average=True)
PLAIN = Parameters(trained=3000, added=0, tasks=4, plain=3000)


def comparison():
  grid = Column(
    {
      F1: Statistic((80.0, 83.0)),
      ACCURACY: Statistic((70.0, 70.0)),
      AVERAGE: Statistic((75.0, 76.5)),
    },
    Parameters(trained=1300, added=1201, tasks=4, plain=3000),
    steps=1500,
    seeds=(0, 2),
    time=StepTime(11.04, 10.0, 1.104, 2.0, None, 20),
    failures={'grid, seed 1': 'the loss is nan'},
    changes=("train.trainable='added'",),
  )
  plain = Column(
    {F1: Statistic((60.5,)), AVERAGE: Statistic((65.25,))},
    PLAIN,
    steps=1500,
    seeds=(0,),
  )
  return Comparison({'plain': plain, 'grid': grid}, {'mixture': 'glue'})


def test_parameters_are_shared_out_among_the_tasks():
  found = comparison().columns['grid'].parameters
  assert found.trained_per_task == 325.0
  assert found.added_per_task == 300.25


def test_markdown_is_the_whole_table():
  table, *notes = report.markdown(comparison()).split('\n\n')
  # Deviations: 3 / sqrt(2), 0, 1.5 / sqrt(2).
  assert table.splitlines() == [
    '| task | metric | plain | grid |',
    '| --- | --- | ---: | ---: |',
    '| glue_mrpc | f1 | 60.50 | 81.50 ± 2.12 |',
    '|  | accuracy | – | 70.00 ± 0.00 |',
    '| **average glue** | 1 of 8 groups | 65.25 | 75.75 ± 1.06 |',
    '| trained parameters | all | 3,000 | 1,300 |',
    '|  | per task | 750 | 325 |',
    '|  | per task, % of a T5 | 25.00 | 10.83 |',
    '| added parameters | all | 0 | 1,201 |',
    '|  | per task | 0 | 300 |',
    '| time per step | over plain T5 | – | 1.10 |',
    '|  | milliseconds | – | 11.0 |',
    '|  | conditioning alone, ms | – | 2.0 |',
    '| steps |  | 1,500 | 1,500 |',
    '| seeds |  | 0 | 0, 2 |',
  ]
  assert 'sample standard deviation' in notes[0]
  assert "grid also sets train.trainable='added'." in notes
  assert notes[-1] == (
    'grid, grid, seed 1, failed and is left out: the loss is nan\n'
  )


def test_csv_has_means_and_deviations_apart():
  rows = list(csv.reader(io.StringIO(report.as_csv(comparison()))))
  assert rows[0] == [
    'task',
    'metric',
    'plain',
    'plain deviation',
    'grid',
    'grid deviation',
  ]
  by_label = {(row[0], row[1]): row[2:] for row in rows[1:]}
  assert by_label['glue_mrpc', 'f1'][:2] == ['60.5', '']
  assert float(by_label['glue_mrpc', 'f1'][3]) == pytest.approx(3 / 2**0.5)
  assert by_label['glue_mrpc', 'accuracy'] == ['', '', '70.0', '0.0']
  assert by_label['trained parameters', 'per task'] == ['750', '', '325', '']
  assert by_label['steps', ''] == ['1500', '', '1500', '']
  assert by_label['time per step', 'over plain T5'] == ['', '', '1.10', '']
  assert {len(row) for row in rows} == {6}


def test_json_has_every_seed(tmp_path):
  report.write(comparison(), tmp_path)
  found = json.loads((tmp_path / 'compare.json').read_text())
  grid = found['methods']['grid']
  assert found['mixture'] == 'glue'
  assert grid['scores'][0] == {
    'task': 'glue_mrpc',
    'metric': 'f1',
    'average': False,
    'mean': 81.5,
    'deviation': pytest.approx(3 / 2**0.5),
    'values': [80.0, 83.0],
  }
  assert grid['parameters']['trained_per_task'] == 325.0
  assert grid['step_time']['relative'] == 1.104
  assert grid['failures'] == {'grid, seed 1': 'the loss is nan'}
  assert found['methods']['plain']['scores'][0]['deviation'] is None
  assert (tmp_path / 'compare.md').read_text() == report.markdown(comparison())
  assert (tmp_path / 'compare.csv').read_text() == report.as_csv(comparison())


@pytest.mark.parametrize(('width', 'tables'), [(100, 1), (72, 2)])
def test_the_screen_gets_as_many_methods_as_it_has_room_for(width, tables):
  console = Console(file=io.StringIO(), width=width)
  report.show(comparison(), console=console)
  text = console.file.getvalue()
  assert text.count('trained parameters') == tables
  assert text.count('81.50 ± 2.12') == 1
  assert text.count('failed and is left out') == 1


def test_methods_are_drawn_at_an_average_that_all_have():
  everything = Line('glue_super_glue', '16 groups', average=True)
  one = Column(
    {AVERAGE: Statistic((1.0,)), everything: Statistic((2.0,))},
    PLAIN,
    steps=1,
    seeds=(0,),
  )
  other = Column({AVERAGE: Statistic((3.0,))}, PLAIN, steps=1, seeds=(0,))
  failed = Column({}, PLAIN, steps=1, seeds=())
  assert report.common_average([one]) == everything
  assert report.common_average([one, other, failed]) == AVERAGE
  assert report.common_average([failed]) is None


def test_averages_stand_below_the_tasks_of_all_methods():
  found = comparison()
  other = Line('super_glue_cb', 'accuracy')
  extra = Column({other: Statistic((1.0,))}, PLAIN, steps=1, seeds=(0,))
  table = Comparison({**found.columns, 'extra': extra}, {})
  assert report.lines(table) == [F1, ACCURACY, other, AVERAGE]

"""`hypergrid compare`: trains, measures, and writes the table and the plot."""

from collections.abc import Sequence
import dataclasses
import functools

from rich.console import Console

from hypergrid_jax import console as console_lib
from hypergrid_jax import errors
from hypergrid_jax.comparing import plot, report, scores, step_times, training
from hypergrid_jax.comparing.plan import PLAIN, SINGLE_TASK, Plan, PlannedRun
from hypergrid_jax.config import registry, run_config
from hypergrid_jax.parallel import preemption
from hypergrid_jax.runs import batches, directory, setup


def compare(
  plan: Plan, *, pairs: int, with_plot: bool, console: Console
) -> None:
  """Makes a comparison, or goes on with it.

  Writes compare.json, compare.csv, compare.md and compare.png beside the runs.

  Args:
    plan: what is compared.
    pairs: steps of each method, and of the plain T5 in between, that are timed;
      0 times none.
    with_plot: whether to draw compare.png.
    console: for what a person sees.

  Raises:
    UserError: before anything is trained, for what some run would refuse; in
      the end, when a run has failed.
  """
  if with_plot:
    plot.check()
  directory.check_address('--model_dir', plan.directory)
  with (
    preemption.Preemption() as preempted,
    # A run watches for the signal itself while it trains.
    preempted.unattended('the comparison'),
  ):
    comparison = _compare(plan, pairs, console)
  if comparison is None:
    return
  report.write(comparison, plan.directory)
  drawn = with_plot and plot.draw(comparison, plan.directory / 'compare.png')
  report.show(comparison, console=console)
  suffixes = ['md', 'csv', 'json', *['png'] * drawn]
  files = ', '.join(f'compare.{suffix}' for suffix in suffixes)
  console_lib.say(console, f'In {plan.directory}: {files}.')
  _refuse_failures(comparison)


def _compare(plan, pairs, console) -> report.Comparison | None:
  plain = setup.set_up(plan.plain, plan.directory, console=console, train=True)
  loader = batches.make_loader(plain.run, plain.corpus)
  runs = plan.runs(loader.tasks)
  counts = training.check(runs, console=console)
  outcome = training.train_all(runs, console=console)
  if outcome is None:
    return None
  times = {}
  if pairs:
    trained = {planned.method for planned in outcome.results}
    setups = {
      name: functools.partial(
        setup.set_up, run, plan.directory, console=console, train=True
      )
      for name, run in plan.methods.items()
      if name in trained - {PLAIN, SINGLE_TASK}
    }
    times = step_times.measure_all(
      plain, setups, plan.directory, pairs=pairs, console=console
    )
  return assemble(plan, plain, counts, outcome, times)


def assemble(
  plan: Plan,
  plain: setup.Setup,
  counts: dict[PlannedRun, training.Counts],
  outcome: training.Outcome,
  times: dict[str, step_times.StepTime],
) -> report.Comparison:
  """Puts the table together.

  Args:
    plan: what is compared.
    plain: run of the plain T5.
    counts: parameters of every run.
    outcome: of the runs.
    times: of the methods that were measured.
  """
  order = [task.name for task, _, _ in plain.corpus.evaluation]
  size = training.counts_of(plain).total
  columns = {}
  for method, run in plan.methods.items():
    mine = [planned for planned in counts if planned.method == method]
    results = {
      seed: scores.merged(found, order)
      for seed in plan.seeds_of(method)
      if (found := _found(mine, seed, outcome))
    }
    columns[method] = report.Column(
      scores=scores.over_seeds(list(results.values())),
      parameters=parameters([counts[p] for p in mine], mine, size),
      steps=run.train.num_steps,
      seeds=tuple(results),
      time=times.get(method),
      failures={
        p.title: outcome.failures[p] for p in mine if p in outcome.failures
      },
      changes=changes(plan.plain, run),
    )
  facts = {
    'versions': directory.versions(),
    'mixture': plan.plain.data.mixture,
    'split': plan.plain.evaluate.split,
  }
  return report.Comparison(columns, facts)


def _found(mine, seed, outcome):
  """The results of a method with one seed; none if a part is missing."""
  of_seed = [planned for planned in mine if planned.seed == seed]
  if any(planned not in outcome.results for planned in of_seed):
    return []
  return [outcome.results[planned] for planned in of_seed]


def parameters(
  counts: Sequence[training.Counts], runs: Sequence[PlannedRun], plain: int
) -> report.Parameters:
  """The parameters that a method has in one seed.

  Args:
    counts: of each of its runs.
    runs: the same runs; single-task models are one for each task.
    plain: parameters of one plain T5.
  """
  models = [
    count
    for count, run in zip(counts, runs, strict=True)
    if run.seed == runs[0].seed
  ]
  return report.Parameters(
    trained=sum(model.trained for model in models),
    added=sum(model.total for model in models) - plain,
    tasks=sum(model.tasks for model in models),
    plain=plain,
  )


def changes(
  plain: run_config.RunConfig, run: run_config.RunConfig
) -> tuple[str, ...]:
  """What a method's gin file sets beside the method, as NAME=VALUE."""
  found = []
  for part in registry.COMPONENTS:
    before, after = getattr(plain, part), getattr(run, part)
    if part == 'method' or before == after:
      continue
    if after is None:
      found.append(f'run.{part}=None')
      continue
    name = registry.name_of(part, after)
    if type(before) is not type(after):
      found.append(f'run.{part}=@{name}()')
      continue
    found += [
      f'{name}.{field.name}={value!r}'
      for field in dataclasses.fields(after)
      if (value := getattr(after, field.name)) != getattr(before, field.name)
    ]
  return tuple(found)


def _refuse_failures(comparison: report.Comparison) -> None:
  failed = [
    f'  {run}: {message}'
    for column in comparison.columns.values()
    for run, message in column.failures.items()
  ]
  if failed:
    raise errors.UserError(
      f'{len(failed)} of the runs failed; the table is of the others. The same'
      ' command tries them again.\n' + '\n'.join(failed)
    )

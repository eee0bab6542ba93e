"""The verb `tasks`: which tasks there are, and what their data are like."""

import dataclasses
from typing import Any

from hypergrid_jax.cli import flags

app = flags.make_app(
  'List the tasks, show one, or check one of your own.',
  example='hypergrid tasks show glue_sst2 --num=5',
)


@dataclasses.dataclass(kw_only=True)
class Page(flags.Data):
  """Flags of what prints examples of a task.

  Attributes:
    num: examples of a split to print.
    inputs_length: tokens that inputs are cut to; by default as in training.
    targets_length: tokens that targets are cut to; by default as in training.
  """

  num: flags.Count = 3
  inputs_length: flags.Count | None = None
  targets_length: flags.Count | None = None

  def options(self, name: str) -> dict[str, Any]:
    """Returns the arguments of a page about one task."""
    from hypergrid_jax.data import config

    lengths = {
      field: value
      for field in ('inputs_length', 'targets_length')
      if (value := getattr(self, field)) is not None
    }
    return {
      'source': self.data_source or 'sample',
      'vocabulary': self.vocab or 'sample',
      'num': self.num,
      'lengths': config.DataConfig(mixture=name, **lengths).lengths,
      'token_dir': self.token_dir,
      'console': flags.console(),
    }


@flags.verb(app, 'list')
def list_tasks(*, source: flags.Source) -> None:
  """List the tasks and what a data source has of them.

  Example:
    hypergrid tasks list --data_source=files:DIR
  """
  from hypergrid_jax.inspection import task_pages

  _load(source.task_file)
  table = task_pages.overview(source.data_source or 'sample')
  flags.console().print(table)


@flags.verb(app, 'show')
def show(
  *,
  name: flags.Task,
  split: flags.Name | None = None,
  page: Page,
) -> None:
  """Show examples of a task as text and token ids.

  Flags:
    name: of the task.
    split: by default the one that is evaluated, if it is there.

  Example:
    hypergrid tasks show super_glue_wsc --split=train --num=5
  """
  from hypergrid_jax.inspection import task_pages

  _load(page.task_file)
  task_pages.show(name, split=split, **page.options(name))


@flags.verb(app, 'check')
def check(*, name: flags.Task, page: Page) -> None:
  """Read all rows of a task, and say what is wrong or odd about them.

  Exit code 2 for what would break training; what is only doubtful is printed
  as a warning.

  Flags:
    name: a task, or a TOML file, Python file or module with tasks.

  Example:
    hypergrid tasks check my_task.toml --vocab=t5.model
  """
  from hypergrid_jax.inspection import task_pages

  _load(page.task_file)
  for task in task_pages.resolve(name):
    task_pages.check(task, **page.options(name))


def _load(task_files: list[str] | None) -> None:
  """Makes the tasks of the user's files known."""
  from hypergrid_jax.tasks import task_files as task_files_lib

  task_files_lib.load(task_files or ())

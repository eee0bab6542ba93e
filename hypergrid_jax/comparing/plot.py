"""One picture: what each method scores for how many parameters per task."""

import importlib.util
import io
import itertools
import os
import pathlib

from hypergrid_jax import errors
from hypergrid_jax.comparing import report
from hypergrid_jax.evaluation import tables


def check() -> None:
  """Asks for matplotlib before hours of training, rather than after.

  Raises:
    UserError: it is not installed.
  """
  if importlib.util.find_spec('matplotlib') is None:
    raise errors.UserError(
      "The plot needs matplotlib: pip install 'hypergrid_jax[plots]'. Without"
      ' it, pass --no_plot.'
    )


def draw(comparison: report.Comparison, path: pathlib.Path) -> bool:
  """Draws the average of every method against its parameters per task.

  Args:
    comparison: the table.
    path: of the PNG file.

  Returns:
    Whether there was an average to draw that all methods have.

  Raises:
    UserError: the file cannot be written.
  """
  columns = {n: c for n, c in comparison.columns.items() if c.scores}
  line = report.common_average(list(columns.values()))
  if line is None:
    return False
  # Without a display, and without the state that pyplot keeps.
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  figure = Figure(figsize=(8, 4.2), layout='constrained')
  FigureCanvasAgg(figure)
  axes = figure.add_subplot()
  for (name, column), marker in zip(
    columns.items(), itertools.cycle('osD^vP*Xp<>'), strict=False
  ):
    axes.errorbar(
      column.parameters.trained_per_task,
      column.scores[line].mean,
      yerr=column.scores[line].deviation,
      fmt=marker,
      capsize=3,
      label=name,
    )
  axes.set_xscale('log')
  axes.margins(x=0.2, y=0.1)
  axes.set_xlabel('trained parameters per task')
  axes.set_ylabel(f'{tables.average_label(line.task)} ({line.metric}), %')
  figure.legend(loc='outside right center', fontsize='small', frameon=False)
  axes.grid(alpha=0.3, which='both', linewidth=0.5)
  image = io.BytesIO()
  figure.savefig(image, format='png', dpi=110)
  _write(path, image.getvalue())
  return True


def _write(path: pathlib.Path, content: bytes) -> None:
  temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
  try:
    temporary.write_bytes(content)
    temporary.replace(path)
  except OSError as error:
    temporary.unlink(missing_ok=True)
    raise errors.UserError(
      f'{path}: cannot be written ({error.strerror}).'
    ) from error

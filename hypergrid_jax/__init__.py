"""One T5 for many tasks: HyperGrid and its relatives in JAX."""

import os
import typing

if typing.TYPE_CHECKING:
  from hypergrid_jax.prediction.loaded_model import LoadedModel

__version__ = '0.1.0'


def load(
  model_dir: str | os.PathLike[str], *, step: int | str = 'best'
) -> 'LoadedModel':
  """Loads a trained model: `load(DIR).predict([{'task': ..., ...}])`.

  Args:
    model_dir: a run's directory, as `hypergrid train` makes it.
    step: a step number, 'best' or 'best:TASK'.

  Raises:
    UserError: there is no such run or checkpoint.
  """
  from hypergrid_jax.config import run_config
  from hypergrid_jax.prediction import loaded_model
  from hypergrid_jax.runs import directory

  directory.read_facts(model_dir)
  run = run_config.parse([os.path.join(model_dir, 'config.gin')])
  return loaded_model.LoadedModel(run, model_dir, step=step)

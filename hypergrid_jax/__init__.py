"""One T5 for many tasks: HyperGrid and its relatives in JAX.

The public names are imported when they are first used, so that `import
hypergrid_jax` is quick and loads neither JAX nor TensorFlow:

  load                                     a trained model
  T5Config, Model, ExtensionPoints         the T5 and where methods change it
  HyperGrid, HyperFormer, Adapters, CAMTL  the methods
  Adafactor, AdamW                         optimisers
  Constant, RsqrtDecay, LinearWarmup       learning-rate schedules
  load_vocabulary, Loader, train           batches, and training in memory
  make_optimizer, make_train_step          the parts of a loop of one's own
  padded_tokens, greedy_decode             from texts to answers
  register_method                          a method of one's own, for gin
"""

import importlib
import os
import typing
from typing import Any

if typing.TYPE_CHECKING:
  from hypergrid_jax.config.registry import register_method as register_method
  from hypergrid_jax.data.loader import Loader as Loader
  from hypergrid_jax.data.own_rows import padded_tokens as padded_tokens
  from hypergrid_jax.methods.adapters import Adapters as Adapters
  from hypergrid_jax.methods.ca_mtl import CAMTL as CAMTL
  from hypergrid_jax.methods.hyperformer import HyperFormer as HyperFormer
  from hypergrid_jax.methods.hypergrid import HyperGrid as HyperGrid
  from hypergrid_jax.model import Model as Model
  from hypergrid_jax.model.config import T5Config as T5Config
  from hypergrid_jax.model.decoding import greedy_decode as greedy_decode
  from hypergrid_jax.model.extension import ExtensionPoints as ExtensionPoints
  from hypergrid_jax.prediction.loaded_model import LoadedModel
  from hypergrid_jax.tasks.vocabularies import (
    load_vocabulary as load_vocabulary,
  )
  from hypergrid_jax.training.in_memory import train as train
  from hypergrid_jax.training.loop import make_train_step as make_train_step
  from hypergrid_jax.training.optimizers import Adafactor as Adafactor
  from hypergrid_jax.training.optimizers import AdamW as AdamW
  from hypergrid_jax.training.optimizers import make_optimizer as make_optimizer
  from hypergrid_jax.training.schedules import Constant as Constant
  from hypergrid_jax.training.schedules import LinearWarmup as LinearWarmup
  from hypergrid_jax.training.schedules import RsqrtDecay as RsqrtDecay

__version__ = '0.1.0'

_MODULES = {
  'Adafactor': 'training.optimizers',
  'AdamW': 'training.optimizers',
  'Adapters': 'methods.adapters',
  'CAMTL': 'methods.ca_mtl',
  'Constant': 'training.schedules',
  'ExtensionPoints': 'model.extension',
  'greedy_decode': 'model.decoding',
  'HyperFormer': 'methods.hyperformer',
  'HyperGrid': 'methods.hypergrid',
  'LinearWarmup': 'training.schedules',
  'load_vocabulary': 'tasks.vocabularies',
  'Loader': 'data.loader',
  'make_optimizer': 'training.optimizers',
  'make_train_step': 'training.loop',
  'Model': 'model',
  'padded_tokens': 'data.own_rows',
  'register_method': 'config.registry',
  'RsqrtDecay': 'training.schedules',
  'T5Config': 'model.config',
  'train': 'training.in_memory',
}

__all__ = ['load', *sorted(_MODULES)]


def __getattr__(name: str) -> Any:
  if name not in _MODULES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  module = importlib.import_module(f'{__name__}.{_MODULES[name]}')
  return getattr(module, name)


def __dir__() -> list[str]:
  return [*__all__, '__version__']


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

  run = run_config.parse([directory.config_file(model_dir)])
  trained = loaded_model.read_run(run, model_dir)
  return loaded_model.LoadedModel(trained, step=step)

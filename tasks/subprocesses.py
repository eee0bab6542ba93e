"""Python processes that work for this one, on text alone."""

import os
import sys


def command(module: str) -> list[str]:
  """Returns the command that runs a module as a program.

  It finds what this process finds: start it with `environment`.
  """
  # Without the working directory in front, whose files could hide modules.
  return [sys.executable, '-P', '-m', module]


def environment() -> dict[str, str]:
  """Returns the variables for a process that leaves accelerators alone."""
  return {
    **os.environ,
    'PYTHONPATH': os.pathsep.join(path or os.curdir for path in sys.path),
    'TF_CPP_MIN_LOG_LEVEL': '3',
    # Accelerators belong to the caller.
    'CUDA_VISIBLE_DEVICES': '-1',
    'JAX_PLATFORMS': 'cpu',
  }

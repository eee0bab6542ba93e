"""One process of several that save and restore together, as it is told.

  python -m tests.checkpoints.save_process PORT PROCESS PROCESSES DEVICES

Every line of its input is JSON, [name of a function below, arguments]; answers
are lines of JSON: {'value': ...} or {'error': text, 'kind': exception class}.
"""

import errno
import json
import logging
import os
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp

from hypergrid_jax.checkpoints import writer
from hypergrid_jax.checkpoints.layout import CheckpointFiles
from hypergrid_jax.checkpoints.reader import CheckpointReader
from hypergrid_jax.checkpoints.writer import Checkpointer
from hypergrid_jax.parallel import agreement, partitioning
from tests.checkpoints import small_state as checkpoints

_WARNINGS: list[str] = []
_OPEN: dict[str, Checkpointer] = {}
_SEEING = {
  name: getattr(CheckpointFiles, name) for name in ('started', 'steps', 'best')
}


def _checkpointer(directory):
  if directory not in _OPEN:
    _OPEN[directory] = Checkpointer(directory, keep=2)
  return _OPEN[directory]


def save(directory, *steps):
  run = _checkpointer(directory)
  found = []
  for step in steps:
    found.append(run.save(step, checkpoints.make_state(step), {'seen': step}))
  return found


def wait(directory):
  _checkpointer(directory).wait()


def mark_best(directory, step, value, name):
  return _checkpointer(directory).mark_best(step, value, name=name)


def look(directory):
  reader = CheckpointReader(directory)
  return [reader.steps(), reader.best(), reader.meta()]


def saved_params(directory):
  return sorted(CheckpointReader(directory).saved_params())


def restore(directory, step, model):
  """Returns [step, whether every shard has the right bits, warnings]."""
  config = partitioning.MeshConfig(model=model)
  target = checkpoints.abstract_of(checkpoints.make_state(0), config)
  _WARNINGS.clear()
  got, meta = CheckpointReader(directory).restore(target, step)
  wanted = checkpoints.values(meta['step'])
  same = jax.tree.map(_same_shards, got, wanted, target)
  return [meta['step'], all(jax.tree.leaves(same)), _WARNINGS]


def _same_shards(got, wanted, target):
  assert got.sharding == target.sharding
  return all(
    np.asarray(shard.data).tobytes() == wanted[shard.index].tobytes()
    for shard in got.addressable_shards
  )


def blind(process, see_nothing):
  """Whether this process sees what is in directories."""
  if process != jax.process_index():
    return
  for name, see in _SEEING.items():
    replaced = (lambda self: []) if see_nothing else see
    setattr(CheckpointFiles, name, replaced)


def fill_disk(process):
  """The next write of this process finds the disk full."""
  if process != jax.process_index():
    return
  errors_of = writer._errors_of

  def full(writes):
    writer._errors_of = errors_of
    errors_of(writes)
    return [OSError(errno.ENOSPC, 'No space left on device')]

  writer._errors_of = full


def break_writing(process):
  """The next write of this process fails, before it is begun."""
  if process != jax.process_index():
    return

  handler = ocp.StandardCheckpointHandler
  async_save = handler.async_save

  async def fail(*_, **__):
    handler.async_save = async_save
    raise PermissionError(errno.EACCES, 'Permission denied')

  handler.async_save = fail


def delay(process, seconds):
  """The next write of this process takes longer."""
  if process != jax.process_index():
    return
  wait_for = Checkpointer._await

  def late(self, *args):
    Checkpointer._await = wait_for
    time.sleep(seconds)
    return wait_for(self, *args)

  Checkpointer._await = late


def skip(process, seconds, function, *arguments):
  """All but one process do as they are told, and wait only so long."""
  agreement.TIMEOUT_SECONDS = seconds
  if process != jax.process_index():
    return globals()[function](*arguments)


def main():
  port, process, processes, devices = map(int, sys.argv[1:])
  answers = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)  # gloo says hello there
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_num_cpu_devices', devices)
  agreement.TIMEOUT_SECONDS = 20.0
  jax.distributed.initialize(f'localhost:{port}', processes, process)
  handler = logging.Handler()
  handler.emit = lambda record: _WARNINGS.append(record.getMessage())
  logging.getLogger('hypergrid_jax').addHandler(handler)
  for line in sys.stdin:
    name, *arguments = json.loads(line)
    try:
      answer = {'value': globals()[name](*arguments)}
    except Exception as error:
      answer = {'error': str(error), 'kind': type(error).__name__}
    answers.write(json.dumps(answer) + '\n')
    answers.flush()


if __name__ == '__main__':
  main()

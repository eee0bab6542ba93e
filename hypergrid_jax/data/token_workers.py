"""Builds several token stores at once, in processes of their own.

Workers are started as `python -m` of this module and speak JSON lines over
their standard input and output, so that they need neither the caller's main
module nor a fork of its threads and devices.
"""

from collections.abc import Sequence
import concurrent.futures
import dataclasses
import json
import os
import pathlib
import queue
import subprocess
import sys
import tempfile
import threading
import traceback

from hypergrid_jax.data import tokenizing
from hypergrid_jax.data.token_requests import TokenRequest
from hypergrid_jax.errors import UserError
from hypergrid_jax.tasks import definitions, subprocesses, task_files

# A worker takes about 6 s to load TensorFlow, in which 30,000 examples can be
# tokenised.
_EXAMPLES_WORTH_A_WORKER = 30_000


def build_all(requests: Sequence[TokenRequest], root: pathlib.Path, progress):
  """Builds stores, in worker processes where that saves time.

  Args:
    requests: distinct, none of which has a store.
    root: token directory.
    progress: called as `tokens.Progress`, from one thread at a time.

  Raises:
    UserError: see `tokenizing.build`; of several mistakes one is reported.
  """
  alone, shared = [], []
  sizes = {
    request: tokenizing.expected_examples(request) for request in requests
  }
  for request in requests:
    progress(request.label, 0, sizes[request])
    (shared if _known_to_workers(request) else alone).append(request)
  shared.sort(key=sizes.__getitem__, reverse=True)
  workers = min(
    os.cpu_count() or 1,
    len(shared),
    sum(sizes[request] for request in shared) // _EXAMPLES_WORTH_A_WORKER,
  )
  if workers < 2:
    alone, shared = list(requests), []
  if shared:
    _build_in_workers(shared, root, workers, progress)
  for request in alone:
    tokenizing.build(request, root, progress)


def _known_to_workers(request: TokenRequest) -> bool:
  """False for a task that only the caller's own code has registered."""
  task = definitions.definition(request.task)
  return task.rows is None or task.task_file is not None


class _Worker:
  """A process that tokenises the requests it is given, one after the other."""

  def __init__(self):
    self._log = tempfile.TemporaryFile()
    self._process = subprocess.Popen(
      subprocesses.command('hypergrid_jax.data.token_workers'),
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=self._log,
      env=subprocesses.environment(),
      text=True,
    )

  def build(self, request: TokenRequest, root: pathlib.Path, progress):
    """Has a store built; raises what went wrong."""
    job = {'request': dataclasses.asdict(request), 'root': str(root)}
    try:
      self._process.stdin.write(json.dumps(job) + '\n')
      self._process.stdin.flush()
    except BrokenPipeError:
      raise self._died(request) from None
    for line in self._process.stdout:
      message = json.loads(line)
      if message['kind'] == 'done':
        return
      if message['kind'] == 'progress':
        progress(request.label, message['done'], message['total'])
      elif message['kind'] == 'user error':
        raise UserError(message['text'])
      else:
        raise RuntimeError(
          f'{request.label} could not be tokenised:\n{message["text"]}'
        )
    raise self._died(request)

  def _died(self, request: TokenRequest) -> RuntimeError:
    code = self._process.wait()
    self._log.seek(0)
    log = self._log.read().decode(errors='replace')[-2000:]
    return RuntimeError(
      f'{request.label}: the tokenising process ended with code {code}. Its'
      f' last words:\n{log}'
    )

  def close(self):
    """Ends the process."""
    self._process.kill()
    self._process.wait()
    for stream in (self._process.stdin, self._process.stdout, self._log):
      stream.close()


def _build_in_workers(requests, root, count: int, progress):
  pending: queue.SimpleQueue[TokenRequest] = queue.SimpleQueue()
  for request in requests:
    pending.put(request)
  lock = threading.Lock()
  failed = threading.Event()

  def report(*args):
    with lock:
      progress(*args)
    if failed.is_set():
      raise concurrent.futures.CancelledError

  def drive():
    worker = _Worker()
    try:
      while not failed.is_set():
        worker.build(pending.get_nowait(), root, report)
    except queue.Empty:
      return
    except BaseException:
      failed.set()
      raise
    finally:
      worker.close()

  with concurrent.futures.ThreadPoolExecutor(count) as pool:
    futures = [pool.submit(drive) for _ in range(count)]
  errors = [e for e in (future.exception() for future in futures) if e]
  errors.sort(key=lambda e: isinstance(e, concurrent.futures.CancelledError))
  if errors:
    raise errors[0]


def _serve(commands, replies):
  """Builds what each line of `commands` asks for; the main of a worker."""

  def send(kind: str, **values):
    replies.write(json.dumps({'kind': kind, **values}) + '\n')
    replies.flush()

  for line in commands:
    job = json.loads(line)
    values = {**job['request'], 'lengths': tuple(job['request']['lengths'])}
    try:
      if values['task_file'] is not None:
        task_files.load([values['task_file']], cache=job['root'])
      tokenizing.build(
        TokenRequest(**values),
        pathlib.Path(job['root']),
        lambda _, done, total: send('progress', done=done, total=total),
      )
      send('done')
    except UserError as error:
      send('user error', text=str(error))
    except Exception:
      send('error', text=traceback.format_exc())


if __name__ == '__main__':
  # Whatever libraries write to the standard output must not mix with replies.
  answers = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)
  _serve(sys.stdin, answers)

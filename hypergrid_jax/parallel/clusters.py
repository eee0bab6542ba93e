"""Finds out which process of which run this one is, before JAX is asked.

From what the user says, or from what SLURM or Google's TPU machines say of
themselves. The names of their variables and of the metadata are those that
JAX's own detection reads.
"""

from collections.abc import Callable, Mapping
import os
import pathlib
import re
import time
import urllib.error
import urllib.request

from hypergrid_jax.errors import UserError, closest
from hypergrid_jax.parallel.roll_call import Cluster

METHODS = ('auto', 'off', 'slurm', 'tpu')

_TPU_PORT = 8482  # what JAX takes, too
# SLURM has no port to give: jobs on one host get different ones of these.
_SLURM_PORTS = range(61440, 65534, 2)
_ATTRIBUTES = 'computeMetadata/v1/instance/attributes'
_METADATA_TRIES = 6
_CHIPS = ('/dev/accel0', '/dev/vfio/0')

Environment = Mapping[str, str]
# Name of an attribute of this machine -> its value, None where it has none.
Metadata = Callable[[str], str | None]


def find(
  method: str = 'auto',
  *,
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  environment: Environment = os.environ,
  metadata: Metadata | None = None,
) -> Cluster | None:
  """Returns this process's place in its run, None when it is alone.

  Args:
    method: 'off' for one process; 'slurm' or 'tpu' to ask that; 'auto' asks
      whichever there is.
    coordinator: 'HOST:PORT' of process 0; with the next two, nothing is asked.
    num_processes: of the run.
    process_id: of this process.
    environment: the variables to read.
    metadata: reads an attribute of a TPU machine; None asks its server.

  Raises:
    UserError: what is given is incomplete or contradictory, or `method` finds
      nothing.
  """
  if method not in METHODS:
    raise UserError(
      f'--distributed={method}: expected one of {", ".join(METHODS)}.'
      f'{closest(method, METHODS)}'
    )
  given = {
    '--coordinator': coordinator,
    '--num_processes': num_processes,
    '--process_id': process_id,
  }
  missing = [flag for flag, value in given.items() if value is None]
  if len(missing) < len(given):
    if missing or method != 'auto':
      raise UserError(
        'A run of several processes needs --coordinator, --num_processes and'
        ' --process_id together, or --distributed to find them.'
        + (f' Missing: {", ".join(missing)}.' if missing else '')
      )
    return Cluster(coordinator, num_processes, process_id)
  if method == 'off':
    return None
  found = None
  if method in ('auto', 'slurm'):
    found = _slurm(environment)
  if found is None and method in ('auto', 'tpu'):
    found = _tpu(environment, metadata, required=method == 'tpu')
  if found is None and method != 'auto':
    raise UserError(
      f'--distributed={method}, but nothing here says which process this is.'
      f' {_EXPECTED[method]} Or name --coordinator, --num_processes and'
      ' --process_id.'
    )
  return found if found is None or found.num_processes > 1 else None


_EXPECTED = {
  'slurm': 'Start it with srun, which sets SLURM_STEP_NODELIST and'
  ' SLURM_PROCID.',
  'tpu': 'A TPU machine has TPU_WORKER_HOSTNAMES and TPU_WORKER_ID, or a'
  ' metadata server.',
}


def _slurm(environment: Environment) -> Cluster | None:
  """What srun says to its tasks."""
  count = environment.get('SLURM_STEP_NUM_TASKS')
  nodes = environment.get('SLURM_STEP_NODELIST')
  if not count or not nodes or 'SLURM_PROCID' not in environment:
    return None
  job = int(environment.get('SLURM_JOB_ID', '0'))
  port = _SLURM_PORTS[job % len(_SLURM_PORTS)]
  local = None
  # srun --gpus-per-task shows each task its own; without, all see all.
  if len(environment.get('CUDA_VISIBLE_DEVICES', ',').split(',')) > 1:
    local = int(environment.get('SLURM_LOCALID', '0'))
  return Cluster(
    f'{first_node(nodes)}:{port}',
    int(count),
    int(environment['SLURM_PROCID']),
    local_device=local,
  )


def first_node(nodes: str) -> str:
  """The first host of a SLURM node list such as 'node[001-004,7],other'."""
  name, bracket, rest = re.fullmatch(r'([^,\[]+)(\[?)(.*)', nodes).groups()
  return name + re.split(r'[-,\]]', rest)[0] if bracket else name


def _tpu(
  environment: Environment, metadata: Metadata | None, *, required: bool
) -> Cluster | None:
  """What a TPU machine on GKE, or one of Compute Engine, says of itself."""
  names = environment.get('TPU_PROCESS_ADDRESSES') or environment.get(
    'TPU_WORKER_HOSTNAMES'
  )
  if names and 'TPU_WORKER_ID' in environment:
    hosts = [name.split(':')[0] for name in names.split(',')]
    number = int(environment['TPU_WORKER_ID'])
    return _slices(hosts, number, environment.get)
  if metadata is None:
    chips = any(pathlib.Path(chip).exists() for chip in _CHIPS)
    if 'TPU_SKIP_MDS_QUERY' in environment or not (chips or required):
      return None
    metadata = _Server(environment)
  endpoints = metadata('worker-network-endpoints')
  number = metadata('agent-worker-number')
  if not endpoints or number is None:
    return None
  # Newer machines list host names, older ones name:id:address.
  hosts = [worker.split(':')[-1] for worker in endpoints.split(',')]
  lines = (metadata('tpu-env') or '').splitlines()
  pairs = (line.partition(':') for line in lines)
  known = {key.strip(): value.strip().strip("'") for key, _, value in pairs}
  return _slices(
    hosts, int(number), lambda key: environment.get(key) or known.get(key)
  )


def _slices(hosts, number, value) -> Cluster:
  """Numbers the processes of all slices of a multislice run."""
  count = int(value('MEGASCALE_NUM_SLICES') or 1)
  which = int(value('MEGASCALE_SLICE_ID') or 0)
  first = (value('MEGASCALE_COORDINATOR_ADDRESS') or hosts[0]).split(':')[0]
  return Cluster(
    f'{first}:{_TPU_PORT}',
    count * len(hosts),
    which * len(hosts) + number,
    names=tuple(hosts) if count == 1 else (),
  )


class _Server:
  """The metadata server of a Compute Engine machine."""

  def __init__(self, environment: Environment):
    host = environment.get('GCE_METADATA_IP', 'metadata.google.internal')
    self._root = f'http://{host}/{_ATTRIBUTES}'

  def __call__(self, name: str) -> str | None:
    request = urllib.request.Request(
      f'{self._root}/{name}', headers={'Metadata-Flavor': 'Google'}
    )
    problem = None
    for attempt in range(_METADATA_TRIES):
      time.sleep(0.5 * min(attempt, 1))
      try:
        with urllib.request.urlopen(request, timeout=10) as answer:
          return answer.read().decode()
      except urllib.error.HTTPError as error:
        if error.code == 404:
          return None
        problem = error
      except OSError as error:
        problem = error
    raise UserError(
      f'The metadata server of this TPU machine does not answer {name!r}:'
      f' {problem}. Name --coordinator, --num_processes and --process_id, or'
      ' --distributed=off for one process.'
    )

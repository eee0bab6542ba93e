"""The processes of one run: who they are, and that all of them are there.

JAX connects processes with `jax.distributed`, which kills a process whose
partners do not come, without saying which. So before that, process 0 calls the
roll: every other one reports to it, and when the time is over all that came
learn who is missing.
"""

from collections.abc import Mapping
import contextlib
import dataclasses
import json
import re
import socket
import time

from hypergrid_jax.errors import UserError

TIMEOUT_SECONDS = 300
_RETRY_SECONDS = 0.2
# JAX's own service takes the coordinator's port; the roll is called beside it.
_PORT_OFFSET = 1
_LONGEST_LINE = 1 << 20


@dataclasses.dataclass(frozen=True)
class Cluster:
  """Which process of how many this one is.

  Attributes:
    coordinator: 'HOST:PORT' of process 0, reachable from all.
    num_processes: of the run.
    process_id: of this process, from 0.
    local_device: the only GPU of this host that this process uses; None for
      all that it sees.
    names: host names by process id, as far as they are known beforehand.

  Raises:
    UserError: they do not fit together.
  """

  coordinator: str
  num_processes: int
  process_id: int
  local_device: int | None = None
  names: tuple[str, ...] = dataclasses.field(default=(), compare=False)

  def __post_init__(self):
    found = re.fullmatch(r'(.+):(\d+)', self.coordinator)
    if not found or not 0 < int(found[2]) + _PORT_OFFSET < 2**16:
      raise UserError(
        f'coordinator: got {self.coordinator!r}, expected HOST:PORT with a port'
        f' below {2**16 - _PORT_OFFSET}, of process 0.'
      )
    if self.num_processes < 1:
      raise UserError(
        f'num_processes: got {self.num_processes}, expected at least 1.'
      )
    if not 0 <= self.process_id < self.num_processes:
      raise UserError(
        f'process_id: got {self.process_id}, expected 0 to'
        f' {self.num_processes - 1}, for num_processes is'
        f' {self.num_processes}.'
      )

  @property
  def roll_call_address(self) -> tuple[str, int]:
    """Host and port where process 0 calls the roll."""
    host, _, port = self.coordinator.rpartition(':')
    return host, int(port) + _PORT_OFFSET


def roll_call(
  cluster: Cluster,
  *,
  run: str,
  timeout_seconds: float = TIMEOUT_SECONDS,
) -> dict[int, str]:
  """Waits until all processes of a run have come.

  Args:
    cluster: who this process is.
    run: what is run, the same text in every process.
    timeout_seconds: how long the others may take.

  Returns:
    Host name by process id.

  Raises:
    UserError: in every process that came: which ones did not, or that one runs
      something else, has another number of processes in mind, or has an id
      twice.
  """
  here = {
    'process_id': cluster.process_id,
    'num_processes': cluster.num_processes,
    'host': socket.gethostname(),
    'run': run,
  }
  deadline = time.monotonic() + timeout_seconds
  if cluster.process_id == 0:
    answer = _call(cluster, here, deadline, timeout_seconds)
  else:
    answer = _report(cluster, here, deadline, timeout_seconds)
  if 'problem' in answer:
    raise UserError(answer['problem'])
  return {int(number): host for number, host in answer['hosts'].items()}


def _call(cluster, here, deadline, timeout_seconds) -> dict:
  """Process 0: collects the reports and answers all of them alike."""
  hosts = {0: here['host']}
  problem = None
  with contextlib.ExitStack() as stack:
    server = stack.enter_context(_listen(cluster))
    guests = []
    while len(hosts) < cluster.num_processes and problem is None:
      try:
        server.settimeout(max(deadline - time.monotonic(), 0.001))
        connection, _ = server.accept()
        stack.enter_context(connection)
        report = _receive(connection, deadline)
      except TimeoutError:
        problem = _missing(cluster, hosts, timeout_seconds)
        break
      if report is None:
        continue  # a port scanner, or a process that was killed meanwhile
      guests.append(connection)
      problem = _objection(here, report, hosts)
      hosts[report['process_id']] = report['host']
    answer = {'hosts': hosts} if problem is None else {'problem': problem}
    for connection in guests:
      with contextlib.suppress(OSError):
        connection.sendall(json.dumps(answer).encode() + b'\n')
  return answer


def _listen(cluster: Cluster) -> socket.socket:
  _, port = cluster.roll_call_address
  try:
    return socket.create_server(('', port), backlog=cluster.num_processes)
  except OSError as error:
    raise UserError(
      f'Port {port} of the coordinator {cluster.coordinator} cannot be used:'
      f' {error.strerror}. Choose another port; it and the next one have to be'
      ' free.'
    ) from error


def _report(cluster, here, deadline, timeout_seconds) -> dict:
  """Any other process: reports to process 0 and waits for its answer."""
  host, port = cluster.roll_call_address
  problem = None
  while time.monotonic() < deadline:
    try:
      left = max(deadline - time.monotonic(), 0.001)
      with socket.create_connection((host, port), timeout=left) as connection:
        connection.sendall(json.dumps(here).encode() + b'\n')
        # The caller's own time may end later than this process's.
        answer = _receive(connection, deadline + timeout_seconds)
      if answer is not None:
        return answer
    except OSError as error:
      problem = error
    time.sleep(_RETRY_SECONDS)
  return {
    'problem': (
      f'Process 0, the coordinator at {cluster.coordinator}, did not answer'
      f' process {cluster.process_id} within {timeout_seconds:g} s ({problem}).'
      ' Is it running, and does a firewall let ports'
      f' {port - _PORT_OFFSET} and {port} through?'
    )
  }


def _receive(connection: socket.socket, deadline: float) -> dict | None:
  """Reads one line of JSON; None when there comes none."""
  connection.settimeout(max(deadline - time.monotonic(), 0.001))
  with connection.makefile('rb') as stream:
    try:
      value = json.loads(stream.readline(_LONGEST_LINE))
    except (ValueError, ConnectionError):
      return None
  return value if isinstance(value, dict) else None


def _objection(here: Mapping, report: Mapping, hosts: Mapping) -> str | None:
  """What is wrong with a process that reported."""
  who = f'Process {report["process_id"]} on {report["host"]}'
  if report['process_id'] in hosts:
    return (
      f'{who} and the one on {hosts[report["process_id"]]} have the same id.'
      ' Give every process its own process_id.'
    )
  if report['num_processes'] != here['num_processes']:
    return (
      f'{who} expects {report["num_processes"]} processes, process 0 on'
      f' {here["host"]} {here["num_processes"]}. Start all of them with the'
      ' same num_processes.'
    )
  if report['run'] != here['run']:
    return (
      f'{who} runs {report["run"]!r}, process 0 on {here["host"]}'
      f' {here["run"]!r}. Start all of them with the same arguments.'
    )
  return None


def _missing(cluster, hosts, timeout_seconds) -> str:
  known = dict(enumerate(cluster.names))
  absent = [
    f'{number} ({known[number]})' if number in known else str(number)
    for number in range(cluster.num_processes)
    if number not in hosts
  ]
  present = ', '.join(f'{n} ({hosts[n]})' for n in sorted(hosts))
  return (
    f'{len(absent)} of {cluster.num_processes} processes did not come within'
    f' {timeout_seconds:g} s: {", ".join(absent)}. Present: {present}. Look at'
    ' the logs of the missing ones, or raise the timeout where starting takes'
    ' longer.'
  )

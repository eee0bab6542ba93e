"""Processes of one run find each other, or learn who is missing."""

import concurrent.futures
import re
import socket

import pytest

from hypergrid_jax.errors import UserError
from hypergrid_jax.parallel import roll_call


@pytest.fixture
def port():
  with socket.create_server(('', 0)) as first:
    return first.getsockname()[1]


def come(port, number, count, *, timeout=20.0, run='quickstart'):
  cluster = roll_call.Cluster(f'localhost:{port}', count, number)
  return roll_call.roll_call(cluster, run=run, timeout_seconds=timeout)


def together(port, calls):
  """Runs roll calls side by side; returns results or the errors' texts."""
  with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
    futures = [pool.submit(come, port, *args, **kw) for args, kw in calls]
    results = []
    for future in futures:
      error = future.exception()
      if error is not None and not isinstance(error, UserError):
        raise error
      results.append(str(error) if error else future.result())
  return results


def test_all_come(port):
  here = socket.gethostname()
  results = together(port, [((n, 3), {}) for n in (2, 0, 1)])
  assert results == [dict.fromkeys(range(3), here)] * 3


def test_everybody_who_came_learns_who_is_missing(port):
  calls = [((n, 5), {'timeout': 1.0}) for n in (0, 3)]
  for text in together(port, calls):
    assert '3 of 5 processes did not come within 1 s: 1, 2, 4.' in text
    assert 'Present: 0 (' in text


def test_hosts_that_are_known_are_missed_by_name(port):
  cluster = roll_call.Cluster(
    f'localhost:{port}', 3, 0, names=('t-0', 't-1', 't-2')
  )
  with pytest.raises(UserError, match=r'2 of 3 .*: 1 \(t-1\), 2 \(t-2\)\.'):
    roll_call.roll_call(cluster, run='quickstart', timeout_seconds=0.3)


def test_no_coordinator(port):
  with pytest.raises(UserError, match=rf'localhost:{port}, did not answer'):
    come(port, 1, 2, timeout=0.5)


@pytest.mark.parametrize(
  ('second', 'text'),
  [
    (((1, 3), {}), 'expects 3 processes, process 0 .* 2'),
    (((1, 2), {'run': 'other'}), "runs 'other', process 0 .* 'quickstart'"),
  ],
)
def test_processes_that_do_not_belong_together(port, second, text):
  results = together(port, [((0, 2), {}), second])
  assert all(re.search(text, result) for result in results)


def test_an_id_twice(port):
  results = together(port, [((n, 3), {'timeout': 5.0}) for n in (0, 1, 1)])
  assert all('have the same id' in text for text in results)


def test_a_stranger_on_the_port_is_ignored(port):
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    caller = pool.submit(come, port, 0, 2)
    stranger = None
    while stranger is None:
      try:
        stranger = socket.create_connection(('localhost', port + 1), 5)
      except ConnectionRefusedError:
        continue
    stranger.sendall(b'GET / HTTP/1.1\r\n\r\n')
    guest = pool.submit(come, port, 1, 2)
    assert caller.result() == guest.result()
    stranger.close()


def test_a_port_that_is_taken(port):
  with (
    socket.create_server(('', port + 1)),
    pytest.raises(UserError, match=rf'Port {port + 1} .* cannot be used'),
  ):
    come(port, 0, 2, timeout=0.5)


@pytest.mark.parametrize(
  ('arguments', 'field'),
  [
    (('nowhere', 2, 0), 'coordinator'),
    (('host:65535', 2, 0), 'coordinator'),
    (('host:1234', 0, 0), 'num_processes'),
    (('host:1234', 2, 2), 'process_id'),
    (('host:1234', 2, -1), 'process_id'),
  ],
)
def test_what_makes_no_cluster(arguments, field):
  with pytest.raises(UserError, match=f'^{field}: '):
    roll_call.Cluster(*arguments)

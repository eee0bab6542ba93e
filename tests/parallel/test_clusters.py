"""What SLURM, GKE and Compute Engine say, as their documents show it."""

import http.server
import threading

import pytest

from hypergrid_jax.errors import UserError
from hypergrid_jax.parallel import clusters
from hypergrid_jax.parallel.roll_call import Cluster

SLURM = {
  'SLURM_JOB_ID': '12345',
  'SLURM_STEP_NUM_TASKS': '6',
  'SLURM_STEP_NODELIST': 'node[003-005,9],other',
  'SLURM_PROCID': '4',
  'SLURM_LOCALID': '1',
}
GKE = {'TPU_WORKER_HOSTNAMES': 'a-0.a,a-1.a,a-2.a', 'TPU_WORKER_ID': '2'}
SLICES = {
  'MEGASCALE_COORDINATOR_ADDRESS': 'b-0.b:8080',
  'MEGASCALE_NUM_SLICES': '4',
  'MEGASCALE_SLICE_ID': '3',
}


def find(method='auto', *, environment=None, metadata=None, **given):
  return clusters.find(
    method,
    environment={'TPU_SKIP_MDS_QUERY': '1'} | (environment or {}),
    metadata=metadata,
    **given,
  )


def test_what_the_user_says_comes_first():
  found = find(
    coordinator='host:1234', num_processes=3, process_id=2, environment=SLURM
  )
  assert found == Cluster('host:1234', 3, 2)


def test_slurm():
  # Each of a host's tasks takes the GPU of its own number.
  port = 61440 + 2 * (12345 % 2047)
  assert find(environment=SLURM) == Cluster(f'node003:{port}', 6, 4, 1)


def test_slurm_with_bound_gpus():
  bound = SLURM | {'CUDA_VISIBLE_DEVICES': '3'}
  assert find('slurm', environment=bound).local_device is None


@pytest.mark.parametrize(
  ('nodes', 'first'),
  [
    ('node001', 'node001'),
    ('node001,host2', 'node001'),
    ('node[001-0015],host2', 'node001'),
    ('node[001,007-015],host2', 'node001'),
    ('n[7]', 'n7'),
  ],
)
def test_first_node(nodes, first):
  assert clusters.first_node(nodes) == first


def test_a_batch_script_is_one_process():
  batch = SLURM | {'SLURM_STEP_NUM_TASKS': '1', 'SLURM_PROCID': '0'}
  assert find(environment=batch) is None


def test_one_tpu_slice_on_gke():
  found = find(environment=GKE)
  assert found == Cluster('a-0.a:8482', 3, 2)
  assert found.names == ('a-0.a', 'a-1.a', 'a-2.a')


def test_several_tpu_slices_are_numbered_one_after_the_other():
  assert find(environment=GKE | SLICES) == Cluster('b-0.b:8482', 12, 11)


def test_one_tpu_host_is_one_process():
  alone = {'TPU_WORKER_HOSTNAMES': 'localhost', 'TPU_WORKER_ID': '0'}
  assert find(environment=alone) is None


@pytest.mark.parametrize(
  'endpoints', ['t-0,t-1', 'unknown:unknown:t-0,unknown:unknown:t-1']
)
def test_compute_engine(endpoints):
  attributes = {
    'worker-network-endpoints': endpoints,
    'agent-worker-number': '1',
    'tpu-env': "ZONE: 'somewhere'\nMEGASCALE_NUM_SLICES: '2'\n"
    "MEGASCALE_SLICE_ID: '1'\nMEGASCALE_COORDINATOR_ADDRESS: 's-0:8080'\n",
  }
  found = find('tpu', metadata=attributes.get)
  assert found == Cluster('s-0:8482', 4, 3)


class _Metadata(http.server.BaseHTTPRequestHandler):
  answers = {'worker-network-endpoints': 't-0,t-1', 'agent-worker-number': '1'}
  failures = ['one']

  def do_GET(self):  # noqa: N802
    *_, name = self.path.split('/')
    known = self.headers['Metadata-Flavor'] == 'Google' and name in self.answers
    code = 503 if self.failures else 200 if known else 404
    self.failures[:] = []
    self.send_response(code)
    self.end_headers()
    if code == 200:
      self.wfile.write(self.answers[name].encode())

  def log_message(self, *_):
    pass


def test_the_metadata_server_is_asked_again_when_it_is_busy():
  server = http.server.ThreadingHTTPServer(('localhost', 0), _Metadata)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  try:
    found = clusters.find(
      'tpu',
      environment={'GCE_METADATA_IP': f'localhost:{server.server_port}'},
    )
  finally:
    server.shutdown()
  assert found == Cluster('t-0:8482', 2, 1)


def test_off():
  assert find('off', environment=SLURM) is None


@pytest.mark.parametrize(
  ('arguments', 'text'),
  [
    (('tpuu',), "--distributed=tpuu: .* Did you mean 'tpu'"),
    (('slurm',), 'nothing here says .* srun'),
    (('tpu',), 'nothing here says .* TPU_WORKER_HOSTNAMES'),
  ],
)
def test_what_cannot_be_found(arguments, text):
  with pytest.raises(UserError, match=text):
    find(*arguments, metadata=lambda name: None)


@pytest.mark.parametrize(
  ('given', 'text'),
  [
    ({'coordinator': 'h:1'}, 'Missing: --num_processes, --process_id'),
    ({'process_id': 0, 'num_processes': 2}, 'Missing: --coordinator'),
  ],
)
def test_a_place_is_told_whole(given, text):
  with pytest.raises(UserError, match=text):
    find(**given)
  with pytest.raises(UserError, match='together, or --distributed'):
    find('slurm', **given)

"""Importing takes less memory than the model has."""

import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from hypergrid_jax.interop import names
from hypergrid_jax.model.config import T5Config
from tests.interop import directories

# T5 1.0 small: 242 MB in float32.
SIZES = {
  'd_model': 512,
  'd_ff': 2048,
  'num_heads': 8,
  'd_kv': 64,
  'num_layers': 6,
  'num_decoder_layers': 6,
  'vocab_size': 32128,
}
# The first import brings everything that has to be loaded and started; what
# the peak rises by in the second is the import's own.
PROGRAM = """
import pathlib, re, sys
from rich.console import Console
from hypergrid_jax.interop import importing

def peak():
  # Not ru_maxrss, which begins with the parent's.
  status = pathlib.Path('/proc/self/status').read_text()
  return int(re.search(r'VmHWM:\\s+(\\d+) kB', status)[1]) * 1024

console = Console(stderr=True)
importing.import_weights(sys.argv[1], 'first', console=console)
before = peak()
importing.import_weights(sys.argv[2], 'second', console=console)
print(peak() - before)
"""


@pytest.mark.slow  # writes half a gigabyte
@pytest.mark.skipif(sys.platform != 'linux', reason='needs /proc')
def test_the_peak_of_a_small_t5_is_below_its_size(tmp_path):
  rng = np.random.default_rng(0)
  content = {
    name: rng.standard_normal(shape, dtype=np.float32)
    for name, shape in names.layout(T5Config(**SIZES), 'hf').items()
  }
  size = sum(value.nbytes for value in content.values())
  assert size == 4 * 60_506_624
  directories.write_hf(tmp_path / 'warm')
  path = directories.write_hf(tmp_path / 'small', content={}, **SIZES)
  save_file(content, path / directories.WEIGHTS)
  done = subprocess.run(
    [sys.executable, '-c', PROGRAM, 'warm', 'small'],
    cwd=tmp_path,
    capture_output=True,
    text=True,
    check=True,
  )
  assert 0 < int(done.stdout) < 1.2 * size

"""Another Python that has PyTorch, asked over a pipe; see `torch_t5`."""

from collections.abc import Callable, Sequence
import json
import pathlib
import subprocess
import tempfile
from typing import Any

import measuring
import numpy as np

SCRIPT = pathlib.Path(__file__).parent / 'torch_t5.py'


class Worker:
  """A process with transformers' T5; it computes only while it is asked.

  Attributes:
    versions: of its Python and packages.
  """

  def __init__(self, python: str):
    """Starts the process.

    Args:
      python: a Python with PyTorch and transformers.
    """
    self._process = subprocess.Popen(
      [python, str(SCRIPT)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )
    self._files = tempfile.TemporaryDirectory()
    self.versions = self.ask(do='versions')

  def __enter__(self) -> 'Worker':
    return self

  def __exit__(self, *error) -> None:
    self._process.stdin.close()
    self._process.wait()
    self._files.cleanup()

  def ask(self, **request: Any) -> Any:
    """Sends one request and waits for its answer."""
    self._process.stdin.write(json.dumps(request) + '\n')
    self._process.stdin.flush()
    answer = self._process.stdout.readline()
    if not answer:
      raise RuntimeError(
        f'{SCRIPT.name} ended with {self._process.wait()} at {request["do"]!r}'
      )
    return json.loads(answer)

  def model(self, config, *, dtype: str, compiled: bool) -> None:
    """Makes a T5 with random weights; `compiled` is by torch.compile."""
    self.ask(do='model', config=sizes(config), dtype=dtype, compiled=compiled)

  def batches(self, name: str, examples: Sequence[dict[str, Any]], **how):
    """Gives it examples, which it batches; returns facts of each batch.

    Args:
      name: under which `turn` finds them.
      examples: with `inputs` and `targets`, ids without padding.
      **how: `size` of a batch and `mega`, how many batches' examples are
        sorted by length together.
    """
    path = pathlib.Path(self._files.name, f'{name}.npz')
    ragged = {}
    for key in ('inputs', 'targets'):
      rows = [np.asarray(example[key], np.int64) for example in examples]
      ragged[key] = np.concatenate(rows)
      ragged[f'{key}_lengths'] = np.array([len(row) for row in rows])
    np.savez(path, **ragged)
    return self.ask(do='batches', name=name, path=str(path), **how)

  def turn(self, **request: Any) -> measuring.Measured:
    """Asks for one measured piece of work."""
    answer = self.ask(**request)
    return measuring.Measured(answer['wall'], answer['processor'])

  def train_step(
    self, config, *, rows: int, lengths: tuple[int, int], dtype: str
  ) -> Callable[[], measuring.Measured]:
    """Makes a model and a step on full rows of random tokens."""
    self.model(config, dtype=dtype, compiled=True)
    rng = np.random.default_rng(0)
    examples = [
      {
        side: rng.integers(2, config.vocab_size, length)
        for side, length in zip(('inputs', 'targets'), lengths, strict=True)
      }
      for _ in range(rows)
    ]
    self.batches('full', examples, size=rows, mega=1)
    return lambda: self.turn(do='train', name='full', number=0)


def sizes(config) -> dict[str, Any]:
  """The sizes of a T5Config as transformers names them."""
  if config.wi_names != ('wi',):
    raise ValueError('only T5 1.0, with one wi and ReLU, is compared')
  return {
    'vocab_size': config.vocab_size,
    'd_model': config.d_model,
    'd_kv': config.d_kv,
    'd_ff': config.d_ff,
    'num_layers': config.num_layers,
    'num_decoder_layers': config.num_decoder_layers,
    'num_heads': config.num_heads,
    'dropout_rate': 0.0,
    'decoder_start_token_id': 0,
  }

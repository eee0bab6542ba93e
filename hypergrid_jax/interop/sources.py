"""What is read from: tensors by name, one at a time, none of them trusted."""

from collections.abc import Mapping
import dataclasses
from typing import Protocol

import numpy as np

from hypergrid_jax.interop import names
from hypergrid_jax.model.config import T5Config

# Without loss in float32.
FLOATS = ('float32', 'float16', 'bfloat16')


@dataclasses.dataclass(frozen=True)
class Tensor:
  """What is known of a tensor before it is read.

  Attributes:
    dtype: its name, 'float32' and the like; any other text is refused.
    shape: of the tensor.
    file: where it is, for messages.
  """

  dtype: str
  shape: tuple[int, ...]
  file: str


class Source(Protocol):
  """An opened checkpoint of another program.

  Attributes:
    format: whose names the tensors have.
    place: the path, for messages.
    tensors: all that a T5 may have or may not have, by name.
    config: the sizes that are written beside the tensors; None if none are.
    copies: names that repeat another tensor where they are there.
    ignored: tensors that belong to no T5 and are left out, and why.
  """

  format: names.Format
  place: str
  tensors: Mapping[str, Tensor]
  config: T5Config | None
  copies: Mapping[str, tuple[str, ...]]
  ignored: tuple[str, ...]

  def read(self, name: str) -> np.ndarray:
    """Reads one tensor, in its own dtype.

    Raises:
      UserError: its file is damaged.
    """

"""Results that take minutes each, kept in a file as soon as they are there.

A stopped benchmark goes on where it was. All cells of a file are of the same
versions; with others the file is started anew.
"""

import importlib.metadata
import json
import pathlib
from typing import Any

from hypergrid_jax import files
from hypergrid_jax.runs import directory

RESULTS = pathlib.Path(__file__).parent / 'results'


def versions() -> dict[str, str]:
  """Those that the TPU's compiler and its programs depend on."""
  libtpu = importlib.metadata.version('libtpu')
  return {**directory.versions(), 'libtpu': libtpu}


def read(name: str) -> dict[str, Any]:
  """All cells of a file that are there."""
  path = RESULTS / name
  return json.loads(path.read_text())['cells'] if path.exists() else {}


def of_these_versions(name: str) -> dict[str, Any]:
  """All cells, if the file was made with the versions that are installed."""
  path = RESULTS / name
  if not path.exists():
    return {}
  found = json.loads(path.read_text())
  return found['cells'] if found['versions'] == versions() else {}


def keep(name: str, about: dict[str, Any], cell: str, values: Any) -> None:
  """Adds one cell; `about` says what the file holds."""
  cells = {**of_these_versions(name), cell: values}
  content = {
    'about': about,
    'versions': versions(),
    'cells': dict(sorted(cells.items())),
  }
  RESULTS.mkdir(exist_ok=True)
  files.write_text(RESULTS / name, json.dumps(content, indent=1) + '\n')

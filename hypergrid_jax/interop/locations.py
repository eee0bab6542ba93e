"""From what a person calls a model to files on this machine."""

import os
import pathlib
import re

from hypergrid_jax import files as files_lib
from hypergrid_jax.errors import UserError
from hypergrid_jax.tasks import tensorflow_guard

# Of a model of the hub: all that is read. Nothing that could run a program.
HUB_FILES = ('config.json', 'model.safetensors', 'model.safetensors.index.json')
HUB_SHARDS = 'model-*-of-*.safetensors'

_URL = re.compile(r'[a-z][a-z0-9+.-]*://.+')
_HUB_NAME = re.compile(r'[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?')
# Of the checkpoints in buckets; the optimiser's state is not copied.
_LEFT_OUT = re.compile(r'(^|/)state\.|\.bin$|\.h5$|\.msgpack$')
_CHUNK = 1 << 24


def cache_directory() -> pathlib.Path:
  """Where copies from buckets lie."""
  base = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  return pathlib.Path(base, 'hypergrid_jax', 'weights')


def resolve(name: str, *, cache: pathlib.Path | None = None) -> pathlib.Path:
  """Returns the path of a model, fetched if it is not here.

  Args:
    name: a local path, a bucket's `gs://...`, or a model of the hub such as
      `google-t5/t5-small`.
    cache: where copies from buckets lie; None is `cache_directory()`.

  Raises:
    UserError: it is in none of these places or cannot be fetched; says what to
      fetch by hand and where to put it.
  """
  if _URL.fullmatch(name):
    return _from_bucket(name, cache or cache_directory())
  path = pathlib.Path(name).expanduser()
  prefix = path.parent.is_dir() and any(
    other.name.startswith(f'{path.name}.') for other in path.parent.iterdir()
  )
  if path.exists() or prefix:  # TensorFlow's checkpoints are only prefixes
    return path
  if not _HUB_NAME.fullmatch(name):
    raise UserError(f'There is no {name}.')
  return _from_hub(name)


def _from_hub(name: str) -> pathlib.Path:
  try:
    import huggingface_hub
  except ImportError as error:
    raise _not_fetched(
      name, 'huggingface_hub is not installed: pip install huggingface_hub'
    ) from error
  try:
    fetched = huggingface_hub.snapshot_download(
      name, allow_patterns=[*HUB_FILES, HUB_SHARDS]
    )
  # Of the library's own, of requests and of the system: all say that the model
  # is not here.
  except Exception as error:
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise _not_fetched(name, said) from error
  return pathlib.Path(fetched)


def _not_fetched(name: str, why: str) -> UserError:
  return UserError(
    f'There is no {name} in this directory, and as a model of the Hugging Face'
    f' hub it cannot be fetched ({why}).\nBy hand: from'
    f' https://huggingface.co/{name}/tree/main take {HUB_FILES[0]} and'
    f' {HUB_FILES[1]} (of a large model {HUB_FILES[2]} and all {HUB_SHARDS}),'
    ' put them into one directory, and name that with --from.'
  )


def _from_bucket(url: str, cache: pathlib.Path) -> pathlib.Path:
  """Copies a directory, or the files of a TensorFlow checkpoint.

  A copy that is there is taken as it is: checkpoints in buckets do not change.
  """
  url = url.rstrip('/')
  target = cache / re.sub(r'[^\w.-]+', '_', url)
  if target.is_dir():
    return _copied(target, url)
  with tensorflow_guard.loading_tensorflow():
    import tensorflow as tf

  files = tf.io.gfile
  try:
    if files.exists(f'{url}.index'):
      base, _, name = url.rpartition('/')
      beside = [f for f in files.listdir(base) if f.startswith(f'{name}.')]
      sources = [f'{base}/{file}' for file in beside]
    else:
      base = url
      sources = [
        f'{folder.rstrip("/")}/{file}'
        for folder, _, found in files.walk(url)
        for file in found
      ]
    sources = [s for s in sources if not _LEFT_OUT.search(s[len(base) :])]
    if not sources:
      raise UserError(
        f'There is nothing at {url}, or you may not see it. {_by_hand(url)}'
      )
    with files_lib.new_directory(target) as copy:
      for source in sources:
        _copy(files, source, copy / source[len(base) :].lstrip('/'))
  except (tf.errors.OpError, OSError) as error:
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise UserError(
      f'{url} cannot be fetched ({said[:300]}). {_by_hand(url)}'
    ) from error
  return _copied(target, url)


def _copied(target: pathlib.Path, url: str) -> pathlib.Path:
  """The copy: a directory, or in it the files of one checkpoint."""
  name = url.rpartition('/')[2]
  return target / name if (target / f'{name}.index').is_file() else target


def _copy(files, source: str, target: pathlib.Path) -> None:
  target.parent.mkdir(parents=True, exist_ok=True)
  with files.GFile(source, 'rb') as read, target.open('wb') as written:
    while chunk := read.read(_CHUNK):
      written.write(chunk)


def _by_hand(url: str) -> str:
  return (
    'By hand, on a machine with a network:\n'
    f'  gcloud storage cp --recursive "{url}*" DIR\n'
    'then bring DIR here and name what is in it with --from.'
  )

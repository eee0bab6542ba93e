"""Templates of a task from a TOML file, such as `review: {title} / {body}`."""

from collections.abc import Mapping
import dataclasses
import re
from typing import Any

from hypergrid_jax.errors import UserError
from hypergrid_jax.tasks.rows import fields

_TOKEN = re.compile(r'\{\{|\}\}|\{([^{}]*)\}|[{}]')


class TemplateError(ValueError):
  """A text is no template; the argument says why."""


@dataclasses.dataclass(frozen=True)
class Template:
  """Text with fields of a row in it.

  Attributes:
    pieces: (text, name of the field that follows it or None), in order.
  """

  pieces: tuple[tuple[str, str | None], ...]

  @property
  def fields(self) -> tuple[str, ...]:
    """The names of the fields, each once, in order."""
    names = (name for _, name in self.pieces if name is not None)
    return tuple(dict.fromkeys(names))

  def fill(self, values: Mapping[str, Any], where: str) -> str:
    """Returns the text with the row's values in place of the fields.

    Args:
      values: of a row, as `rows.files.read` gives them.
      where: 'file:line' for messages.

    Raises:
      UserError: a field is missing, or is null, a list or an object.
    """
    parts = []
    for text, name in self.pieces:
      parts.append(text)
      if name is not None:
        value = fields.find(values, name)
        if value is fields.ABSENT:
          raise UserError(fields.missing(values, name, where))
        parts.append(fields.as_text(value, f'{where}: field {name!r}'))
    return ''.join(parts)


def parse(text: str) -> Template:
  """Reads a template: `{field}`, `{outer/inner}`, and `{{` or `}}` for a brace.

  Raises:
    TemplateError: a brace has no partner, or a pair of braces names no field.
  """
  pieces: list[tuple[str, str | None]] = []
  literal, position = '', 0
  for found in _TOKEN.finditer(text):
    literal += text[position : found.start()]
    position = found.end()
    token, name = found[0], found[1]
    if token in ('{{', '}}'):
      literal += token[0]
    elif name is None:
      raise TemplateError(
        f'the {token!r} at character {found.start() + 1} has no partner; a'
        f' brace that is text is written twice, {token * 2!r}'
      )
    elif not name.strip():
      raise TemplateError(
        f'the braces at character {found.start() + 1} name no field'
      )
    else:
      pieces.append((literal, name))
      literal = ''
  literal += text[position:]
  if literal:
    pieces.append((literal, None))
  return Template(tuple(pieces))

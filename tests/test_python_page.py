"""docs/python.md and docs/quickstart.ipynb run from top to bottom."""

import pathlib
import re

import nbclient
import nbformat
import numpy as np
import pytest

import hypergrid_jax as hg

DOCS = pathlib.Path(__file__).parents[1] / 'docs'


def test_the_page_runs_and_learns():
  text = (DOCS / 'python.md').read_text(encoding='utf-8')
  names = {}
  for block in re.findall(r'```python\n(.*?)```', text, re.DOTALL):
    exec(block, names)
  assert f'`answers` is `{names["answers"]}`' in text
  assert np.all(np.isfinite(names['metrics'].sums))


def test_model_loader_and_training_fit_into_25_lines():
  text = (DOCS / 'python.md').read_text(encoding='utf-8')
  first = re.search(r'```python\n(.*?)```', text, re.DOTALL)[1]
  assert len(first.splitlines()) <= 25


@pytest.mark.slow
def test_the_notebook_runs():
  notebook = nbformat.read(DOCS / 'quickstart.ipynb', as_version=4)
  nbclient.NotebookClient(notebook, timeout=300).execute()
  shown = [
    output['data']['text/plain']
    for cell in notebook.cells
    if cell.cell_type == 'code'
    for output in cell.outputs
    if output.output_type == 'execute_result'
  ]
  assert "['good', '4']" in shown


def test_rows_without_a_text_are_refused():
  vocabulary = hg.load_vocabulary('bytes')
  rows = {'mood': [{'inputs': 'a', 'target': 'b'}]}
  with pytest.raises(Exception, match="mood, row 0.*'targets'.*'target'"):
    hg.Loader.from_rows(rows, vocabulary, batch_size=1)
  with pytest.raises(Exception, match='mood: there are no rows'):
    hg.Loader.from_rows({'mood': []}, vocabulary, batch_size=1)


def test_own_rows_are_cut_as_seqio_cuts():
  vocabulary = hg.load_vocabulary('bytes')
  tokens = hg.padded_tokens(['abc', 'a'], vocabulary, length=3)
  np.testing.assert_array_equal(tokens, [[100, 101, 1], [100, 1, 0]])

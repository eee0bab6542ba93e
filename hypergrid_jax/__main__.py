"""`python -m hypergrid_jax VERB ...` is `hypergrid VERB ...`."""

import sys

from hypergrid_jax.cli import main

if __name__ == '__main__':
  sys.exit(main.main())

"""`python -m hypergrid_jax VERB ...` is `hypergrid VERB ...`."""

import sys

from hypergrid_jax import cli

if __name__ == '__main__':
  sys.exit(cli.main())

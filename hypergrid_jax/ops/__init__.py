"""Array operations that the methods are made of."""

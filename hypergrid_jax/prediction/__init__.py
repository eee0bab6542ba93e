"""A trained model, and requests to it."""

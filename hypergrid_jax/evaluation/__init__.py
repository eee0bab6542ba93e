"""Decoding, scores, results and the files of predictions."""

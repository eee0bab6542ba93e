"""gin files and bindings to one typed configuration of a run."""

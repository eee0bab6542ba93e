"""Several methods trained on the same data, and one table of what came out.

plan.py names the runs, training.py trains those that are not finished,
step_times.py measures, scores.py and report.py make the table, plot.py the
plot. Every run is an ordinary run directory; nothing here knows a method.
"""

"""The conditioned methods: each one file, plugged into T5's extension points.

A method is a frozen dataclass of its hyper-parameters with
`extension_points()`; methods never import each other.
"""

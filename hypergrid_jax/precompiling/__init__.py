"""A run compiled ahead of time for devices that are not here.

`topologies` are the devices, `programs` what is compiled; `hlo_text`,
`hlo_loops`, `hlo_costs` and `collectives` read the compiled program;
`analytic` counts the same from the configuration, `roofline` turns counts into
time, `advice` tries what makes a program fit, `report` writes it all down.
"""

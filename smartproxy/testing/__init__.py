"""Tools for tests, our own and those of programs that embed smartproxy. Needs the `testing` extra.

`smartproxy.testing.strategies` has Hypothesis strategies, one module per format.
"""

"""Hypothesis strategies for what a proxy meets on the wire, one module per format."""

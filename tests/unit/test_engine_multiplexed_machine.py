"""Multiplexed streams through the engine under Hypothesis; the model is in multiplexed_machine.py."""

from __future__ import annotations

from multiplexed_machine import MultiplexedMachine

TestMultiplexedMachine = MultiplexedMachine.TestCase

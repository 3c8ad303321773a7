"""The engine as a state machine under Hypothesis; the model is in engine_machine.py."""

from __future__ import annotations

from engine_machine import EngineMachine

TestEngineMachine = EngineMachine.TestCase

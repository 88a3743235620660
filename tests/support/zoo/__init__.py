"""Simulators that tests have in common."""

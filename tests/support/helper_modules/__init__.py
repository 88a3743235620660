"""Modules that hold generators, for test_isolation."""

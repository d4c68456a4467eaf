"""The version: set here alone, and read by `pyproject.toml`."""

__version__ = "0.1.0"

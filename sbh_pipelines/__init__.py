"""SBH Pipelines: back up and restore one tenant of a shared SaaS database. See docs/design.md for the words and layers."""

__version__ = "0.1.0"

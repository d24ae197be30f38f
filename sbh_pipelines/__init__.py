"""SBH Pipelines: back up and restore one tenant of a shared SaaS database. Words: docs/glossary.md; layers: ARCHITECTURE.md; why: docs/design.md."""

__version__ = "0.1.0"

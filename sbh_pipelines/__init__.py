"""SBH Pipelines: back up and restore one tenant of a shared SaaS database.

The words are in docs/glossary.md, the layers and two walks in ARCHITECTURE.md, the reasons in docs/design.md.
"""

__version__ = "0.1.0"

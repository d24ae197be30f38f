"""Data keys as objects of a repository: wrapped, of several epochs, and what still needs an old epoch."""

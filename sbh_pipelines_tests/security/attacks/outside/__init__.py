"""Attacks from beside the system: proxies, hooks, issuers, browsers, pages."""

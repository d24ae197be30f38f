"""The routes, a file per noun. Each parses a body, asks the service or launches a run, and answers."""

"""The jobs that bring a tenant back, undo that, or put an old state beside the live one."""

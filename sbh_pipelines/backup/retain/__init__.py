"""Which backups are kept: `policy` decides (pure), `holds` stand in its way, `forget` carries out, `prune` frees space."""

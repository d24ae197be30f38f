"""Exports: the data of a backup as a folder of SQL, CSV, JSON lines or Parquet, for whoever asked for it."""

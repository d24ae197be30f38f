"""How results are shown: tables and texts that several commands print."""

"""`sbh demo`: one tenant out and back through Dagster on real servers, with proof."""

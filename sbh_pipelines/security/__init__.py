"""Who may do what (policy), keys that wrap keys (keys), and where secrets come from (secrets)."""

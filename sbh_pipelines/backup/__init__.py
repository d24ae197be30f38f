"""The verbs over sources and repository: create, verify, restore, retain; `service` composes them for the faces."""

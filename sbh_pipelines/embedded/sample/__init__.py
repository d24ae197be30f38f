"""Sample data for them: a believable SaaS, its work, its damage, and an independent witness of its contents."""

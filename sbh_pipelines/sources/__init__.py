"""Where data is read and put back: the application's database, the tenants' files."""

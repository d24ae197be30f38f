"""Tests of the server's side of the change journal."""

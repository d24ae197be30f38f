"""The jobs that take care of what is there: retention and prune, key rotation, the platform backup."""

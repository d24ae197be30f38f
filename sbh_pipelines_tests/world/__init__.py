"""Databases as other people have them: schemas of products that this project did not make up for itself, run through every verb."""

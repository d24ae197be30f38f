"""Requests to S3 that we sign and send ourselves: for tenants' files, whose headers and keys no driver takes as they are.

credentials  who we are for AWS: its own chain, or keys of the settings
signature    AWS Signature Version 4 over bytes
client       one request, repeated on transient errors; a body that goes on where it broke
headers      what S3 keeps with an object, from an answer and back into a request
page         a piece of a listing
upload       an object in parts that grow with it
"""

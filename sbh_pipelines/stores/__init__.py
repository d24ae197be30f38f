"""Object storage.

store    a bucket, or a local directory that acts as one
key      an object's full name in the bucket
ETag     the store's own opaque mark of one version of an object's content
"""

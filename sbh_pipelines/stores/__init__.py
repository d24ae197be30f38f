"""Object storage.

store    a bucket, or a local directory that acts as one
key      an object's full name in the bucket
ETag     the store's own opaque mark of one version of an object's content

    base                        what a store must guarantee, in numbered obligations
    open_store                  the factory: which kinds there are
    s3, local                   the kinds
    object_store                the data path that they share
    bandwidth                   how much of it a second
    bound_store, region_proof   nothing is written but where it may lie
    versions                    what a bucket had at an earlier time
    purge, object_lock          deleted in every version; kept for a time
    s3_client, s3_control       boto3: what obstore cannot do, and how a bucket is set up
    signed                      files of a bucket with all that is kept with them: requests that we sign ourselves
    s3_errors                   what S3's error codes mean
    bucket_rules                what a bucket's policy and lifecycle rules mean for backups
"""

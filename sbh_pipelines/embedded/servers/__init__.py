"""Real servers from wheels, as one stack.

stack           up, down, status, or running for the length of a block
postgres        PostgreSQL 18
object_server   SeaweedFS, an S3 server
copy_server     a second one, for a copy of the backups
kms             moto's KMS
process         servers that outlive the command that started them
layout          which file of the state directory is where
settings_file   the settings that lead to all of it
"""

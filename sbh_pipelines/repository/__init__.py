"""A tenant's repository: everything under its backup prefix.

chunk      a piece of plaintext, named by HMAC-SHA256 of its content under the tenant's key
sealed     compressed (zstd), encrypted (AES-256-GCM), bound to tenant and name
pack       one object holding many sealed chunks and a sealed directory of them
index      one object saying which packs hold which chunks; can be rebuilt from the packs
manifest   the JSON document that is the backup; writing it is the commit

docs/format.md has the bytes, and what a crash between every two writes leaves behind.
"""

"""What the doctor asks of buckets.

storage      reachable; with `write` a test object
residency    the region of each bucket, as its server tells it
protection   versions, object lock, encryption, public access, policy and lifecycle of each bucket
copies       whether a copy took over; buckets and keys of the copies, and the tenants that they leave out
"""

"""From the server's stream to sealed blocks: whose each change of a window is. A large transaction is never in memory.

routes         the ways from tables to tenants, as numbers: link, index, plan
decoding       first pass: messages become records
records        changes between the passes
spool          records in a sealed temporary file
states         what rows that others follow were like
router         second pass: records become changes of tenants
departures     what stays behind when a row goes that others follow
arrivals       what waited for a row that others follow
followers      how many rows refer to a key, asked within bounds
events         what no change tells
places         where each tenant's changes go
tenant_blocks  changes gathered into blocks of segments
"""

"""A made-up application, the same for the same arguments, and what happens to it.

schema        its tables, awkward as real ones are
data, rows    tenants, rows and files from a seed
fleet         many tenants and large tables, for the benchmarks
changes       an hour's work of a tenant; its ruin
fingerprint   what tenants hold, by plain SQL and plain reads: the independent witness
"""

"""The commands, a file per group: each parses, calls one facet of the service, and shows the result.

A group is a noun: `backup`, `restore`, `keys`. `retention` adds its commands to `backup`, `erasing` to `tenants`.
"""

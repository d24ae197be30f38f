"""Ways to reach people, one a file. Each takes an alert or raises; `sending` tries them all, whatever happens to one.

No address that may hold a token, no key and no password appears in a log or an error.
"""

"""How results are shown where several commands print them: results in, tables and text out.

plan         a restore's plan
restores     what restores did, and how far they are
approvals    what is asked for, and by whom
compliance   the compliance report in words
spans        spans of time against an objective
"""

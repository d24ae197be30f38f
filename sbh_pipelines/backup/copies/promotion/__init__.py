"""A copy becomes the place where backups are made.

`promotion` says what is done, and in which order; `readiness` what is at the copy; `handover` is the part of a
source that answers.
"""

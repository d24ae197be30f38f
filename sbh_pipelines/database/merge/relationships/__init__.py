"""What ties rows to others, and what follows from it for rows that come back and rows that go.

links          foreign keys, and conditions that settings declare
closure        rows that hang on chosen rows, and what these hang on
parents        what rows that come back hang on: it comes with them
adoption       live rows of nobody that hold keys of the backup's rows
returning      live rows of nobody that will be the tenant's, since their parents come back
followers      the same of rows that are not staged
references     rows outside the restore that refer to rows which go
consequences   what foreign keys declare for those
"""

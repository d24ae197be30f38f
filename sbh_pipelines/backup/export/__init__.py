"""Exports: a backup's rows and files in a folder that is readable without this program.

    export         chooses tables, reads the backup, writes table by table
    text_formats   SQL, CSV and JSON lines from COPY text; Parquet is made by `backup/contents/columnar/arrow.py`
    folder         complete under its name, or not there
    browse         a look into a backup, a page at a time, with masks
    readme         what the person who receives it is told

Chunks -> COPY text -> a format -> the folder. No database is needed.
"""

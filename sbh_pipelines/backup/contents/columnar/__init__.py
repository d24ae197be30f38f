"""Rows in columns, for what works on columns.

arrow         rows as Apache Arrow columns, and Parquet files of them
data_frames   a table as a pandas DataFrame
queries       SQL over tables, by DuckDB, without a database
"""

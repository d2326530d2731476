"""Results of the past: compacted into a few Parquet files a month, and read again by backtest, reports and status.

A result stays what it is, an immutable JSON object; the files of a month are a copy that is cheap to read. Until a
result is in one, a marker says so, and readers take the result itself.
"""

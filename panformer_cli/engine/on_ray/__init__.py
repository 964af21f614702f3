"""`predict --engine ray`: images are predicted by actors of a Ray cluster, which write Parquet files."""

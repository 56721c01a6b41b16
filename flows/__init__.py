"""What a person triggers: one Prefect flow a file, and the command line."""

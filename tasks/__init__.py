"""Units of work: each cached, retryable, and landing its rows in the store."""

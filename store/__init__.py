"""The results database: types, schema, connection and queries."""

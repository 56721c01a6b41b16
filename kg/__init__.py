"""Wikidata: endpoint, neighbourhoods, path search and linearisation."""

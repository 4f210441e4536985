"""The log of a run: its entries, and the pages that they share."""

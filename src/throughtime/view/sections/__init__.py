"""The sections of a report, one question each, in the order a reader asks them."""

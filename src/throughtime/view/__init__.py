"""Pictures and pages from records: `report`. Never computes a measure; sees records and diagnosis only."""

from throughtime.view.report import report

__all__ = ["report"]

"""The tab "Lab": one thing is varied, the rest stays the same, and charts show what that did."""

from workbench_app.lab.tab import lab_tab

__all__ = ["lab_tab"]

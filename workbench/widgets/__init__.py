"""Widgets for notebooks: thin layers over pure functions that also work without a front end."""

from workbench.widgets.quiz_box import QuizBox
from workbench.widgets.rendered import VIEWS, PageTokens, Rendered, render
from workbench.widgets.selection import Selection
from workbench.widgets.stepper import Stepper

__all__ = ["VIEWS", "PageTokens", "QuizBox", "Rendered", "Selection", "Stepper", "render"]

"""One module per lesson, `lessonNN`: its exercises, its quiz, and helpers for its cells."""

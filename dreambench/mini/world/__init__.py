"""The small world: a program that renders subjects in places, styles and views."""

"""The small world: a program that draws subjects in places, styles and views."""

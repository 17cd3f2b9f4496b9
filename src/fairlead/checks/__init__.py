"""Checks of a text that a program makes, and the sandbox in which programs of others run.

Knows: texts, references, limits.
Does not know: anything heavy. Worker processes import these modules, so they hold to the standard library and to
small packages, which are imported when they are first needed.
"""

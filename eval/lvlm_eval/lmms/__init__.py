"""The plug-in for lmms-eval: any model under any method, and two tasks with honest figures.

Nothing here is loaded unless lmms-eval asks for it.
"""

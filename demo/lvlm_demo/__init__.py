"""The demo: one page on which the embedded model, or any other, describes a photo before and after
a method acts.
"""

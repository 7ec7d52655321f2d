"""Pairs of functions, forward and backward, one pair a file. They write into arrays that they are given.

They are NumPy's own operations: numexpr took four times as long for AdamW over 46K to 10M elements and eight times for
SwiGLU, numba 1.4 to 1.7 and 5 to 15 times, as neither computes tanh of several elements at once (2.14 and 0.68, AMD).
"""

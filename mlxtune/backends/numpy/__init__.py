"""The NumPy backend: the Llama family, forward and backward written by hand, all arithmetic in float32."""

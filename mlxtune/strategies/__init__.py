"""Which parameters train. A strategy returns a Selection: data that the backends carry out."""

"""Files of other machines, read as those of this one are."""

"""Files that are whole or absent, and documents that anyone may have written."""

"""One reader for each kind of file: bytes -> what the file holds at each place. None knows the forms of rows."""

"""The steps of data preparation, each a file with one pure function of the file's name."""

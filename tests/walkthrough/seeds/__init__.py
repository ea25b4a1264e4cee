"""The five systems that people move from: a file each, with the rows of its README."""

"""The HTTP service of `bang serve`: requests of many clients, decoded together."""

"""A stand-in for the API, its bootstrap and its controller: just enough for the processes around them."""

"""One page a file: a function of the library and the URL's query, without state."""

"""Is the generator right? A server whose times are known, and the generator's figures beside them."""

"""Who asks: a front for each protocol, and what runs them inside Locust."""

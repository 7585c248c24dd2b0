"""Load tests of LLM servers on Locust: workloads, arrivals, records of every request, and what to make of them."""

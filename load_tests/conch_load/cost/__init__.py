"""What tokens cost: from a measured throughput and dated prices to $ per million tokens and a break-even with APIs."""

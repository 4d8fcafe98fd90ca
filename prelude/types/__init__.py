"""The vocabulary shared by every floor: requests, plans, prices, wire messages. No torch."""

"""Measures Conch: experiments store results, reports write them into docs/, and tools and perf are what they share."""

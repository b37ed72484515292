"""Measures Conch: experiments store results, reports write them into docs/, and tools are what experiments share."""

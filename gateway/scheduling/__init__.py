"""Whose work is next: the queue of each model (`admission.Queues`) and turns between keys (`turns`, `threads`)."""

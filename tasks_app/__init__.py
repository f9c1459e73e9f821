"""This project: its tasks, the queues they run on, and the pages that start and show them."""

"""Tasks, the queues they run on, and the pages that show them."""

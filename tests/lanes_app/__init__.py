"""Models and serial tasks that only tests need. Installed nowhere: the tables are made when a test database is."""
